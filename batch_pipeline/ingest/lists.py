"""The workspace's own lists of patients: who has the NHS App, and who opted out.

They are read as cohorts are. Unlike a cohort, a list with a faulty line is refused whole: a line that can't be read may be somebody who
opted out.
"""

import sys
from datetime import datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import duckdb
import pyarrow as pa

from batch_pipeline.errors import Refused
from batch_pipeline.ingest.reader import CohortReader, open_cohort
from batch_pipeline.rules import nhs_number
from batch_pipeline.rules.paths import PATHS

ALL_CHANNELS = "all"
_YES = ("true", "t", "yes", "y", "1", "on", "enabled")
_NO = ("false", "f", "no", "n", "0", "off", "disabled")

NO_ACCOUNTS = pa.table({"nhs_number": pa.array([], pa.string()), "notifications_enabled": pa.array([], pa.bool_())})
NO_OPT_OUTS = pa.table({"nhs_number": pa.array([], pa.string()), "channel": pa.array([], pa.string())})


def read_app_accounts(path: Path) -> pa.Table:
    """``nhs_number, notifications_enabled`` of a snapshot CSV. ``Refused`` names file and line."""
    with duckdb.connect() as con:
        _load(con, path, required=("nhs_number", "notifications_enabled"))
        said = "lower(trim(coalesce(notifications_enabled, '')))"
        _refuse_first(con, path, f"{said} NOT IN {(*_YES, *_NO)}", "notifications_enabled is neither true nor false")
        return con.sql(
            f"SELECT number AS nhs_number, {said} IN {_YES} AS notifications_enabled FROM list"
        ).to_arrow_table()


def read_opt_outs(path: Path, now: datetime, zone: ZoneInfo) -> pa.Table:
    """``nhs_number, channel`` of those who had opted out by ``now``; without a ``channel`` column, of all.

    ``opted_out_on`` is a day or a time in the workspace's zone; an empty one counts as always.
    """
    with duckdb.connect() as con:
        columns = _load(con, path, required=("nhs_number", "opted_out_on"))
        _refuse_first(
            con, path, "nullif(trim(opted_out_on), '') IS NOT NULL AND since IS NULL",
            "opted_out_on is not a date: write it as 2026-10-01",
            extra=f"{_SINCE} AS since",
        )  # fmt: skip
        channel = "coalesce(nullif(lower(trim(channel)), ''), 'all')" if "channel" in columns else "'all'"
        _refuse_first(
            con, path, f"{channel} NOT IN {(*PATHS, ALL_CHANNELS)}",
            f"channel is unknown: use {', '.join((*PATHS, ALL_CHANNELS))}",
        )  # fmt: skip
        local = now.astimezone(zone).replace(tzinfo=None)
        return con.sql(
            f"SELECT DISTINCT number AS nhs_number, {channel} AS channel FROM list WHERE since IS NULL OR since <= $now",
            params={"now": local},
        ).to_arrow_table()


# A word such as "epoch" or "infinity" is a time to DuckDB.
_SINCE = """CASE WHEN regexp_matches(trim(opted_out_on), '^[0-9]') THEN
    coalesce(try_cast(trim(opted_out_on) AS TIMESTAMP), try_strptime(trim(opted_out_on), '%d/%m/%Y')) END"""


def _load(con: duckdb.DuckDBPyConnection, path: Path, required: tuple[str, ...]) -> set[str]:
    """``list``: the file's rows as text, with the spreadsheet's row and the mended NHS number."""
    if not path.is_file():
        raise Refused(f"{path.name}: there is no such file at {path}: correct the path in the workspace file")
    reader = open_cohort(path, label=path.name, max_bytes=sys.maxsize)
    columns = set(reader.shape.columns)
    if missing := [name for name in required if name not in columns]:
        raise Refused(
            f"{path.name}, line {reader.shape.headings_line}: the heading {missing[0]} is missing: "
            f"the headings are {','.join(required)}"
        )
    con.register("given", _rows(reader, ["line", "problem", *sorted(columns)]))
    con.execute(f"CREATE TABLE list AS SELECT *, {nhs_number.normalised_sql('nhs_number')} AS number FROM given")
    _refuse_first(con, path, "problem IS NOT NULL", "it can't be read: look for a stray quotation mark or comma")
    _refuse_first(
        con, path, f"number IS NULL OR ({nhs_number.problem_sql('number')}) IS NOT NULL", "the NHS number is invalid"
    )
    return columns


def _rows(reader: CohortReader, columns: list[str]) -> pa.Table:
    """All of a list; a list of nobody is one, too."""
    batches: list[pa.RecordBatch] = []
    try:
        batches.extend(batch.select(columns) for batch in reader.batches())
    except Refused:
        if batches or not reader.text.unchanged():
            raise
    return pa.Table.from_batches(batches, pa.schema([reader.schema.field(name) for name in columns]))


def _refuse_first(con: duckdb.DuckDBPyConnection, path: Path, faulty: str, what: str, extra: str | None = None) -> None:
    if extra:
        con.execute(f"CREATE OR REPLACE TABLE list AS SELECT *, {extra} FROM list")
    found = con.sql(f"SELECT count(*), min(line) FROM list WHERE coalesce({faulty}, true)").fetchall()[0]
    if found[0]:
        more = f" (and {found[0] - 1:,} more)" if found[0] > 1 else ""
        raise Refused(f"{path.name}, line {found[1]}{more}: {what}; nothing was planned, correct the line")
