"""The attempts of a batch, its entries in the record and its bookings as Arrow, for the set work of reports and metrics."""

# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportUnknownParameterType=false
# (pyarrow comes without types)

from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa
import sqlalchemy as sa

from batch_pipeline.ledger import links
from batch_pipeline.ledger.tables import OVER, attempts, bookings, record_chunks, record_entries, slots
from batch_pipeline.ledger.tables import links as links_
from batch_pipeline.rules.states import attempt_state_sql

_ROWS = 20_000
_TIMES = (
    *("queued_at", "begun_at", "accepted_at", "delivered_at", "read_at", "failed_at"),
    *("timed_out_at", "unconfirmed_at", "no_fallback_at"),
)
_TEXTS = ("step", "channel", "provider", "reference", "failure_kind", "failure_code", "no_fallback_because", "policy")

SCHEMA = pa.schema(
    [
        ("line", pa.int32()),
        ("fragments", pa.int32()),
        ("state", pa.string()),
        *((name, pa.string()) for name in _TEXTS),
        *((name, pa.timestamp("us", "UTC")) for name in _TIMES),
    ]
)


def read_attempts(
    connection: sa.Connection, batch: str, steps: Sequence[str] | None = None
) -> Iterator[pa.RecordBatch]:
    """The batch's attempts in the order of their lines, with the state that each is in; nothing personal.

    ``steps``: those of these steps alone. Record batches of ``SCHEMA``, in one reading of the ledger: memory stays bounded.
    """
    columns = [attempts.c.line, attempts.c.fragments, sa.literal_column(attempt_state_sql("attempts")).label("state")]
    columns += [attempts.c[name] for name in _TEXTS]
    columns += [sa.type_coerce(attempts.c[name], sa.BigInteger).label(name) for name in _TIMES]
    query = sa.select(*columns).where(attempts.c.batch == batch).order_by(attempts.c.line, attempts.c.id)
    if steps is not None:
        query = query.where(attempts.c.step.in_(steps))
    yield from _read(connection, query, SCHEMA)


ENTRIES = pa.schema(
    [
        ("line", pa.int32()),
        *((name, pa.string()) for name in ("identifier", "resource_type", "chunk", "outcome", "code")),
        ("noted_at", pa.timestamp("us", "UTC")),
    ]
)


def read_entries(connection: sa.Connection, batch: str) -> Iterator[pa.RecordBatch]:
    """The batch's entries in the record, written, refused or under way, by line: as ``read_attempts``, of ``ENTRIES``."""
    entry = record_entries.c
    columns = (entry.line, entry.identifier, record_chunks.c.resource_type, entry.chunk, entry.outcome, entry.code)
    noted_at = sa.type_coerce(entry.noted_at, sa.BigInteger).label("noted_at")
    query = sa.select(*columns, noted_at).join(record_chunks, entry.chunk == record_chunks.c.reference)
    yield from _read(connection, query.where(entry.batch == batch).order_by(entry.line, entry.identifier), ENTRIES)


BOOKINGS = pa.schema(
    [
        ("line", pa.int32()),
        ("answer", pa.string()),
        ("slot", pa.string()),
        ("starts_at", pa.timestamp("us", "UTC")),
        ("minutes", pa.int32()),
        *((name, pa.string()) for name in ("clinician", "place")),
        *((name, pa.timestamp("us", "UTC")) for name in ("made_at", "ended_at")),
    ]
)


def read_bookings(connection: sa.Connection, batch: str, workspace: str, booking: str) -> Iterator[pa.RecordBatch]:
    """What each of the batch's patients who can book chose last of these slots: as ``read_attempts``, of ``BOOKINGS``.

    Neither an appointment that had begun when the patient was invited by this batch, nor what came after one that
    was attended since: that answers another batch's message.
    """
    is_over = bookings.c.ended_because == OVER
    answer = sa.case(
        (bookings.c.id.is_(None), "none"),
        (sa.and_(bookings.c.ended_at.is_not(None), bookings.c.ended_because != OVER), "cancelled"),
        (bookings.c.slot.is_(None), "declined"),
        else_="booked",
    )
    ended_at = sa.case((is_over, None), else_=sa.type_coerce(bookings.c.ended_at, sa.BigInteger))
    times = (sa.type_coerce(bookings.c.made_at, sa.BigInteger), ended_at)
    query = (
        sa.select(
            *(attempts.c.line, answer, slots.c.slot, sa.type_coerce(slots.c.starts_at, sa.BigInteger)),
            *(slots.c.minutes, slots.c.clinician, slots.c.place, *times),
        )
        .select_from(links_)
        .join(attempts, sa.and_(attempts.c.batch == links_.c.batch, attempts.c.patient == links_.c.patient))
        .outerjoin(bookings, bookings.c.id == _last_choice(workspace, booking))
        .outerjoin(slots, slots.c.id == bookings.c.slot)
        .where(links_.c.batch == batch, links_.c.kind == "self_book", attempts.c.step == "primary")
        .order_by(attempts.c.line)
    )
    yield from _read(connection, query, BOOKINGS)


def _last_choice(workspace: str, booking: str) -> sa.ColumnElement[int]:
    """SQL value, beside a patient's message: the id of what answers it, null for nothing."""
    chosen, its_slot, invited_at = bookings.alias("chosen"), slots.alias("its_slot"), attempts.c.begun_at
    is_theirs = sa.and_(
        chosen.c.workspace == workspace, chosen.c.booking == booking, chosen.c.patient == attempts.c.patient
    )
    with_slots = chosen.join(its_slot, its_slot.c.id == chosen.c.slot)

    def one(what: sa.ColumnElement[Any], origin: sa.FromClause, *which: sa.ColumnElement[bool]) -> Any:
        return sa.select(what).select_from(origin).where(is_theirs, *which).correlate(attempts).scalar_subquery()

    first, last = sa.func.min(chosen.c.id), sa.func.max(chosen.c.id)
    is_over = chosen.c.ended_because == OVER
    stands = sa.or_(chosen.c.ended_at.is_(None), is_over)
    before = one(last, with_slots, stands, its_slot.c.starts_at <= invited_at)
    attended = one(first, with_slots, is_over, its_slot.c.starts_at > invited_at)
    return sa.func.coalesce(attended, one(last, chosen, chosen.c.id > sa.func.coalesce(before, 0)))


def _read(connection: sa.Connection, query: sa.Select[*tuple[Any, ...]], schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    found = connection.execution_options(yield_per=_ROWS).execute(query)
    for rows in found.partitions(_ROWS):
        cells = list(zip(*rows, strict=True))
        yield pa.record_batch(
            [
                # Microseconds since 1970, as the ledger keeps them: no datetime is made a row at a time.
                pa.array(column, pa.int64()).cast(field.type)
                if pa.types.is_timestamp(field.type)
                else pa.array(column, field.type)
                for column, field in zip(cells, schema, strict=True)
            ],
            schema=schema,
        )


def read_slots(connection: sa.Connection, workspace: str, booking: str) -> pa.Table:
    """All slots of a clinic, those that are gone too, and how many are booked."""
    fields = [
        *(("slot", pa.string()), ("starts_at", pa.timestamp("us", "UTC")), ("minutes", pa.int32())),
        *(("clinician", pa.string()), ("place", pa.string()), ("capacity", pa.int32()), ("booked", pa.int32())),
        ("removed_at", pa.timestamp("us", "UTC")),
    ]
    schema = pa.schema(fields)
    columns = (
        sa.type_coerce(slots.c[name], sa.BigInteger).label(name) if name.endswith("_at") else slots.c[name]
        for name in schema.names
    )
    mine = sa.and_(slots.c.workspace == workspace, slots.c.booking == booking)
    return pa.Table.from_batches(_read(connection, sa.select(*columns).where(mine), schema), schema)


def read_locked(connection: sa.Connection, batch: str) -> pa.Table:
    """``line, locked_at`` of the batch's links that are locked."""
    found = links.locked(connection, batch)
    return pa.table(
        {
            "line": pa.array([line for line, _ in found], pa.int32()),
            "locked_at": pa.array([at for _, at in found], pa.timestamp("us", "UTC")),
        }
    )


def read_begun(connection: sa.Connection, batch: str) -> pa.Table:
    """``patient, channel, address, fallback_number`` of the batch's first messages that are under way or sent."""
    names = ("patient", "channel", "address", "fallback_number")
    query = sa.select(*(attempts.c[name] for name in names)).where(
        attempts.c.batch == batch, attempts.c.step == "primary", attempts.c.begun_at.is_not(None)
    )
    rows = connection.execute(query).all()
    cells = list(zip(*rows, strict=True)) or [()] * len(names)
    return pa.table({name: pa.array(column, pa.string()) for name, column in zip(names, cells, strict=True)})
