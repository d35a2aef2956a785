"""What was looked up of patients, as a table: whose details fill which gaps, and who turns out to be one patient (SPEC 2.3)."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from batch_pipeline.planning.duck import scan, write
from batch_pipeline.planning.tables import PDS_DETAILS
from batch_pipeline.rules.demographics import Details

_GIVEN = pa.schema(
    [
        ("line", pa.int32()),
        *((name, pa.string()) for name in ("outcome", "current_number", "mobile", "email")),
        ("fetched_at", pa.timestamp("us", tz="UTC")),
    ]
)


@dataclass(frozen=True, slots=True)
class LookedUp:
    """A line's look-up. ``fetched_at`` None: nobody was asked."""

    line: int
    details: Details
    fetched_at: datetime | None


def write_details(con: duckdb.DuckDBPyConnection, patients: Path, found: Iterable[LookedUp], out: Path) -> None:
    """Writes ``pds_details``.

    A line whose patient stands in the file under the current number as well is a duplicate of that line; of several
    lines that come to one new number the first stays.
    """
    rows = [
        {
            "line": each.line,
            "outcome": each.details.outcome,
            "current_number": each.details.current_number,
            "mobile": each.details.mobile,
            "email": each.details.email,
            "fetched_at": each.fetched_at,
        }
        for each in found
    ]
    con.register("given_details", pa.Table.from_pylist(rows, schema=_GIVEN))
    superseded = any(row["current_number"] for row in rows)
    holders = (
        f"""(
            SELECT nhs_number AS current_number, min(line) AS holder FROM {scan(patients)}
            WHERE nhs_number IN (SELECT current_number FROM given_details) GROUP BY ALL
        )"""
        if superseded
        else "(SELECT NULL::VARCHAR AS current_number, NULL::INTEGER AS holder WHERE false)"
    )
    write(
        con,
        f"""
        SELECT {", ".join(PDS_DETAILS.columns)} FROM (
            SELECT *, CASE WHEN kept <> line THEN kept END AS duplicate_of FROM (
                SELECT given_details.*, CASE WHEN current_number IS NOT NULL THEN
                    coalesce(holder, min(line) OVER (PARTITION BY current_number)) END AS kept
                FROM given_details LEFT JOIN {holders} USING (current_number)
            )
        ) ORDER BY line
    """,
        out,
    )


def is_empty(details: Path) -> bool:
    """Whether nobody was looked up. Told by the file's own figures: a million patients cost nothing then."""
    return pq.read_metadata(details).num_rows == 0


def duplicates_among(con: duckdb.DuckDBPyConnection, details: Path, out: Path) -> list[Path]:
    """The lines that turned out to be another line's patient, as a table at ``out``; no table where there are none."""
    if is_empty(details):
        return []
    write(con, f"SELECT line FROM {scan(details)} WHERE duplicate_of IS NOT NULL", out)
    return [out]


def duplicates_sql(duplicates: Path, details: Path) -> str:
    """The FROM-term of a batch's duplicates: those of the file, and those that look-ups found."""
    found = f"SELECT line, duplicate_of AS kept_line, false AS disagrees FROM {scan(details)} WHERE duplicate_of IS NOT NULL"
    return f"(FROM {scan(duplicates)} UNION ALL BY NAME {found})"


def superseded(con: duckdb.DuckDBPyConnection, patients: Path, details: Path) -> list[tuple[str, str]]:
    """The numbers of the file that have been superseded, each with the current one."""
    if is_empty(details):
        return []
    return con.sql(f"""
        SELECT p.nhs_number, d.current_number FROM {scan(details)} d JOIN {scan(patients)} p USING (line)
        WHERE d.current_number IS NOT NULL
    """).fetchall()
