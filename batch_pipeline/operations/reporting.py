"""What people read of a batch: its reports, and the metrics published for analysts."""

import fcntl
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

import duckdb
import pandera.pandas as pa
import pyarrow.parquet as pq
import sqlalchemy as sa

from batch_pipeline.errors import Refused
from batch_pipeline.house import House
from batch_pipeline.ledger import batches, bookings, due, figures, snapshot
from batch_pipeline.ledger.bookings import Reported
from batch_pipeline.operations import booking
from batch_pipeline.operations.status import status
from batch_pipeline.planning import tables as schemas
from batch_pipeline.planning.details import duplicates_sql
from batch_pipeline.planning.duck import literal, quoted, scan, write
from batch_pipeline.reports import columns, lists
from batch_pipeline.reports.csv_files import write_csv
from batch_pipeline.rules import states


def attempts_table(
    house: House, con: duckdb.DuckDBPyConnection, batch: str, path: Path, *, steps: Sequence[str] | None = None
) -> None:
    """Writes the ledger's attempts of a batch as Parquet, in the columns of ``schemas.RECEIPTS``."""
    whole = _attempts(house, batch, path.with_suffix(".whole"), steps)
    write(con, f"SELECT {', '.join(schemas.RECEIPTS.columns)} FROM {scan(whole)}", path)


def record_table(house: House, con: duckdb.DuckDBPyConnection, batch: str, path: Path) -> Path:
    """Writes the batch's entries in the record as Parquet, in the columns of ``schemas.RECORDS``."""
    whole = path.with_suffix(".whole")
    with house.ledger.read() as connection:
        _write_arrow(snapshot.read_entries(connection, batch), snapshot.ENTRIES, whole)
    write(con, f"SELECT {', '.join(schemas.RECORDS.columns)} FROM {scan(whole)}", path)
    return path


def bookings_table(house: House, con: duckdb.DuckDBPyConnection, batch: str, path: Path) -> Reported:
    """Writes what the batch's patients chose of the slots as Parquet, in the columns of ``schemas.BOOKINGS``.

    Gives what it was made of: ``bookings.mark_reported``.
    """
    whole = path.with_suffix(".whole")
    clinic = booking.clinic_of(house.submitted(batch))
    with house.ledger.read() as connection:
        made_of = bookings.reported(connection, batch)
        rows = () if clinic is None else snapshot.read_bookings(connection, batch, *clinic)
        _write_arrow(rows, snapshot.BOOKINGS, whole)
    write(con, f"SELECT {', '.join(schemas.BOOKINGS.columns)} FROM {scan(whole)}", path)
    return made_of


def write_booking_reports(
    house: House,
    con: duckdb.DuckDBPyConnection,
    batch: str,
    table: Path,
    patients: Path,
    made_of: Reported,
    now: datetime,
) -> list[Path]:
    """Writes ``bookings.csv`` and ``slots.csv`` of a batch that offers slots; gives their paths."""
    submitted = house.submitted(batch)
    clinic = booking.clinic_of(submitted)
    if clinic is None:
        return []
    zone, decline_code = submitted.workspace.timezone, submitted.file.message.decline_snomed
    with house.staging() as folder:
        with house.ledger.read() as connection:
            pq.write_table(snapshot.read_slots(connection, *clinic), folder / "slots")
        rows = {"patients": scan(patients), "decline_code": decline_code, "zone": zone}
        written = _write(
            house.home.reports / batch,
            con,
            {
                columns.BOOKINGS: lambda own: lists.bookings(own, scan(table), **rows),
                columns.SLOTS: lambda own: lists.slots(own, scan(folder / "slots"), now=now.isoformat(), zone=zone),
            },
        )
    with house.ledger.write() as connection:
        bookings.mark_reported(connection, batch, made_of)
    return written


def with_new_bookings(house: House) -> list[str]:
    """Batches of which patients chose something since their bookings were reported."""
    with house.ledger.read() as connection:
        return bookings.unreported(connection)


def _attempts(house: House, batch: str, path: Path, steps: Sequence[str] | None = None) -> Path:
    with house.ledger.read() as connection:
        return _write_attempts(connection, batch, path, steps)


def _write_attempts(connection: sa.Connection, batch: str, path: Path, steps: Sequence[str] | None = None) -> Path:
    return _write_arrow(snapshot.read_attempts(connection, batch, steps), snapshot.SCHEMA, path)


def _write_arrow(tables: Iterable[Any], schema: Any, path: Path) -> Path:
    """Record batches of a schema of ``ledger.snapshot``, as Parquet that its owner alone can read."""
    with pq.ParquetWriter(path, schema) as writer:
        for rows in tables:
            writer.write_batch(rows)
    path.chmod(0o600)
    return path


def write_planning_reports(
    house: House, batch: str, non_contactable: Path, rejected_rows: Path, duplicates: Path, pds_details: Path
) -> list[Path]:
    """Writes ``non_contactable.csv``, ``rejected_rows.csv`` and ``duplicates.csv``; gives their paths."""
    with house.duck() as con:
        return _write(
            house.home.reports / batch,
            con,
            {
                columns.NON_CONTACTABLE: lambda own: lists.non_contactable(own, scan(non_contactable)),
                columns.REJECTED_ROWS: lambda own: lists.rejected_rows(own, scan(rejected_rows)),
                columns.DUPLICATES: lambda own: lists.duplicates(own, duplicates_sql(duplicates, pds_details)),
            },
        )


def write_outcome_reports(
    house: House, batch: str, channel_plan: Path, patients: Path, now: datetime
) -> tuple[list[Path], dict[str, Any]]:
    """Writes ``outcomes.csv`` and ``follow_up.csv`` as things stand; gives their paths and the figures.

    Once every patient has ended this is the final report, and the ledger says so.
    """
    zone = house.submitted(batch).workspace.timezone
    with house.staging() as folder, house.duck() as con:
        with house.ledger.read() as connection:  # one state of the ledger: the rows, and whether they are the last
            attempts = scan(_write_attempts(connection, batch, folder / "attempts"))
            ended = figures.status(connection, batch).all_ended
            changes = batches.get(connection, batch).changes
            pq.write_table(snapshot.read_locked(connection, batch), folder / "locked")
        tables = {"patients": scan(patients), "attempts": attempts, "zone": zone}
        written = _write(
            house.home.reports / batch,
            con,
            {
                columns.OUTCOMES: lambda own: lists.outcomes(own, channel_plan=scan(channel_plan), **tables),
                columns.FOLLOW_UP: lambda own: lists.follow_up(own, locked=scan(folder / "locked"), **tables),
            },
        )
    if ended:
        with house.ledger.write() as connection:
            batches.mark_reported(connection, batch, changes, now)
    return written, status(house, batch)


_Rows = Callable[[duckdb.DuckDBPyConnection], duckdb.DuckDBPyRelation]


def _write(folder: Path, con: duckdb.DuckDBPyConnection, reports: Mapping[columns.Report, _Rows]) -> list[Path]:
    """Writes reports side by side, as DuckDB makes the lines of each in one thread; gives their paths."""

    def one(report: columns.Report, rows: _Rows) -> Path:
        write_csv(rows(con.cursor()), folder / report.file, report.columns)
        return folder / report.file

    with ThreadPoolExecutor(thread_name_prefix="report") as pool:
        return list(pool.map(one, reports, reports.values()))


def reports_of(house: House, batch: str) -> list[Path]:
    """The batch's reports that have been written."""
    return sorted((house.home.reports / batch).glob("*.csv"))


def copy_reports(house: House, batch: str, out: Path) -> list[Path]:
    """Copies the batch's reports into a folder of the user's; gives the copies. They hold patients' details."""
    copies: list[Path] = []
    try:
        out.mkdir(parents=True, exist_ok=True, mode=0o700)
        for report in reports_of(house, batch):
            copy = out / report.name
            if not (copy.exists() and copy.samefile(report)):
                shutil.copyfile(report, copy)
                copy.chmod(0o600)
            copies.append(copy)
    except OSError as error:
        raise Refused(
            f"{error.filename or out}: the reports can't be copied there ({error.strerror}): choose another folder"
        ) from None
    return copies


def ended_unreported(house: House) -> list[str]:
    """Batches that have ended and lack their final report."""
    with house.ledger.read() as connection:
        return due.ended_unreported(connection)


def report_schema(report: columns.Report) -> pa.DataFrameSchema:
    """A report's columns as a pandera schema, for the UI."""
    return pa.DataFrameSchema(
        {column.heading: pa.Column(str, nullable=True, description=column.description) for column in report.columns},
        name=report.file,
        description=report.title,
    )


NON_CONTACTABLE_CSV = report_schema(columns.NON_CONTACTABLE)
OUTCOMES_CSV = report_schema(columns.OUTCOMES)


def measure(house: House, con: duckdb.DuckDBPyConnection, batch: str, path: Path) -> Path:
    """Writes ``delivery_metrics`` of a batch: its attempts by day, step, channel, provider and state."""
    submitted = house.submitted(batch)
    whole = _attempts(house, batch, path.with_suffix(".whole"))
    taken = states.taken_sql("a")
    con.execute(f"SET TimeZone = {literal(submitted.workspace.timezone)}")
    write(
        con,
        f"""
        SELECT {literal(batch)} AS batch, {literal(submitted.workspace.id)} AS workspace,
            {literal(submitted.file.message.type)} AS message_type, {literal(submitted.message.template)}::VARCHAR AS template,
            accepted_at::DATE AS day, step, channel, provider, state, count(*) AS attempts,
            coalesce(sum(fragments) FILTER (channel = 'sms' AND {taken}), 0)::BIGINT AS fragments
        FROM {scan(whole)} a GROUP BY ALL ORDER BY ALL
    """,
        path,
    )
    return path


def publish_metrics(house: House) -> Path:
    """Makes ``metrics.duckdb`` anew from every batch's metrics; gives the new file.

    A new file under a new name behind a link: an analyst who has the old one open, in any mode, neither waits nor
    makes us wait (DESIGN 1). The one before the last is removed; its pages stay with whoever has it open.
    """
    link = house.home.metrics_path
    with _alone(link.with_name(".metrics.lock")):
        return _publish(house, link)


@contextmanager
def _alone(lock: Path) -> Iterator[None]:
    """One process at a time; the lock goes with the process, however it ends."""
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _publish(house: House, link: Path) -> Path:
    with NamedTemporaryFile(dir=link.parent, prefix="metrics-", suffix=".duckdb", delete=False) as reserved:
        new = Path(reserved.name)
    new.unlink()
    measured = house.home.data / "delivery_metrics"
    shape = ", ".join(f"{name} {column.metadata['type']}" for name, column in schemas.DELIVERY_METRICS.columns.items())
    with duckdb.connect(str(new)) as con:
        con.execute(f"CREATE TABLE delivery_metrics ({shape})")
        if any(measured.glob("*.parquet")):
            con.execute(f"INSERT INTO delivery_metrics BY NAME FROM read_parquet('{quoted(measured)}/*.parquet')")
        for name, column in schemas.DELIVERY_METRICS.columns.items():
            con.execute(f"COMMENT ON COLUMN delivery_metrics.{name} IS {literal(column.description)}")
    new.chmod(0o600)
    before = link.resolve() if link.is_symlink() else None
    part = link.with_name(f".{new.name}.link")
    part.symlink_to(new.name)
    part.replace(link)
    for old in link.parent.glob("metrics-*.duckdb"):
        if old not in (new, before):
            old.unlink(missing_ok=True)
    return new
