"""From a table's pandera schema to what Dagster shows and checks of it."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dagster as dg
import duckdb
import pandera.pandas as pa

from batch_pipeline.defs.partitions import OWNERS
from batch_pipeline.errors import Refused
from batch_pipeline.house import ORIGIN, House, Submitted
from batch_pipeline.operations import reporting
from batch_pipeline.planning import tables
from batch_pipeline.planning.duck import noted, notes, scan

FITS = "fits_its_schema"


def out(schema: pa.DataFrameSchema, group: str) -> dg.AssetOut:
    """The asset of a table: its description, columns and place in the graph."""
    return dg.AssetOut(
        description=schema.description,
        group_name=group,
        kinds={"duckdb", "parquet", "pandera"},
        owners=OWNERS,
        metadata={"dagster/column_schema": columns(schema)},
    )


def columns(schema: pa.DataFrameSchema) -> dg.TableSchema:
    """A pandera schema as the columns Dagster's UI shows."""
    return dg.TableSchema(
        [
            dg.TableColumn(
                str(name),
                (column.metadata or {}).get("type", str(column.dtype)),
                description=column.description,
                constraints=dg.TableColumnConstraints(
                    nullable=column.nullable,
                    unique=column.unique,
                    other=[_said(check) for check in column.checks or []],
                ),
            )
            for name, column in schema.columns.items()
        ]
    )


def _said(check: Any) -> str:
    """A pandera check as people read it; its own text is a Python representation."""
    terms = check.statistics
    match check.name:
        case "isin":
            return "one of " + ", ".join(map(str, terms["allowed_values"]))
        case "greater_than_or_equal_to":
            return f"at least {terms['min_value']}"
        case "str_matches":
            return f"matches {getattr(terms['pattern'], 'pattern', terms['pattern'])}"
        case _:
            return str(check)


def fits_spec(schema: pa.DataFrameSchema) -> dg.AssetCheckSpec:
    """The blocking check that a table fits its schema."""
    return dg.AssetCheckSpec(
        FITS,
        asset=str(schema.name),
        blocking=True,
        description="Every column is there, typed, and passes its pandera checks.",
    )


def fits(con: duckdb.DuckDBPyConnection, schema: pa.DataFrameSchema, path: Path) -> dg.AssetCheckResult:
    """Runs a table's pandera checks over its Parquet file. Tells column, check and count; never a cell."""
    broken = tables.broken(con, schema, path)
    return dg.AssetCheckResult(
        asset_key=schema.name,
        check_name=FITS,
        passed=not broken,
        metadata={"broken": dg.MetadataValue.json(broken)} if broken else {},
        description="; ".join(f"{rule} ({rows} rows)" for rule, rows in broken.items()) or None,
    )


def markdown(headings: tuple[str, str], rows: Mapping[str, Any]) -> dg.MarkdownMetadataValue:
    """A two-column table for the UI."""
    body = "\n".join(
        f"| {name} | {value:,} |" if isinstance(value, int) else f"| {name} | {value} |" for name, value in rows.items()
    )
    return dg.MetadataValue.md(f"| {headings[0]} | {headings[1]} |\n| --- | ---: |\n{body}")


@contextmanager
def made_from(submitted: Submitted, *tables: Path) -> Iterator[None]:
    """What is written inside is made from these tables, all of them from this very submission.

    ``Refused`` otherwise: a batch may be submitted anew while an earlier planning run of it is under way.
    """
    for table in tables:
        if notes(table).get(ORIGIN) != submitted.content:
            raise Refused(
                f"{submitted.row.batch} was submitted anew while this was planned: plan it again, from the cohort on"
            )
    with noted(**{ORIGIN: submitted.content}):
        yield


def attempts(
    house: House,
    batch: str,
    schema: pa.DataFrameSchema,
    *,
    steps: Sequence[str] | None = None,
    metadata: Mapping[str, Any],
) -> Iterator[dg.AssetCheckResult | dg.Output[Path]]:
    """The ledger's attempts of a batch, as they are now, as the table of an asset."""
    with house.staging() as folder, house.duck() as con:
        path = folder / str(schema.name)
        reporting.attempts_table(house, con, batch, path, steps=steps)
        yield fits(con, schema, path)
        states = con.sql(f"SELECT state, count(*) FROM {scan(path)} GROUP BY ALL ORDER BY ALL").fetchall()
        yield dg.Output(
            path, str(schema.name), metadata={**metadata, "by_state": markdown(("state", "attempts"), dict(states))}
        )
