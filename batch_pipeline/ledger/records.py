"""What is in patients' records: entries, claimed in chunks under a lease, and what became of each (SPEC 2.13).

An entry is there from the moment somebody sets out to write it; its identifier is unique, so nobody else does. What
isn't noted as written or refused when a lease runs out is found by whoever takes the chunk over, and finished as the
writer allows: ``batch_pipeline.records.saving``.
"""

import json
import secrets
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Literal, NamedTuple

import sqlalchemy as sa

from batch_pipeline.ledger import audit
from batch_pipeline.ledger import batches as batches_
from batch_pipeline.ledger.dialects import insert, one_of_texts, unindexed
from batch_pipeline.ledger.leases import Leases
from batch_pipeline.ledger.tables import attempts, batches, record_chunks, record_entries, to_microseconds
from batch_pipeline.rules.records import certain_at_sql, entry_status_sql, recorded_sql, told_or_old_sql
from batch_pipeline.rules.states import attempt_state_sql

Outcome = Literal["written", "refused"]


@dataclass(frozen=True, slots=True)
class RecordChunk:
    """Entries that are written together, as one process holds them, or sees another hold them."""

    reference: str
    batch: str
    resource_type: str
    fence: int
    lease_until: datetime


class Noted(NamedTuple):
    """What became of one entry; ``code``: why it was refused."""

    identifier: str
    outcome: Outcome
    code: str | None = None


class Saved(NamedTuple):
    """How many entries of a batch are in the record, were refused, and are being written."""

    written: int
    refused: int
    at_work: int


class Refusal(NamedTuple):
    """An entry that wasn't taken; nothing personal."""

    line: int | None
    code: str


class Facts(NamedTuple):
    """All that is told of one message in the record: personal, so not for logs."""

    identifier: str
    first: str | None
    """Of a fallback: the reference of the App message that it followed."""
    channel: str
    nhs_number: str | None
    subject: str | None
    text: str | None
    state: str
    status: str | None
    failure_kind: str | None
    failure_code: str | None
    accepted_at: datetime | None
    delivered_at: datetime | None
    read_at: datetime | None

    def __repr__(self) -> str:
        return f"Facts({self.identifier!r})"


_LEASES = Leases(record_chunks)
_WRITTEN = "written"


# What is due ---------------------------------------------------------------------------------------------------------


Due = sa.Select[int, str, int]
"""``position, identifier, line`` of what may be written, whether or not it is; positions only grow."""


def due_messages(batch: str, now: datetime) -> Due:
    """A batch's messages whose entry is certain by now (``rules.records``).

    A fallback follows its App message: while that one's entry is still to come, it waits.
    """
    first = attempts.alias("first")
    no_entry = ~sa.exists().where(record_entries.c.identifier == first.c.reference)
    first_to_come = sa.exists().where(
        first.c.batch == attempts.c.batch,
        first.c.patient == attempts.c.patient,
        first.c.step == "primary",
        sa.literal_column(recorded_sql("first")),
        no_entry,
    )
    certain_at = sa.literal_column(certain_at_sql("attempts"), sa.BigInteger())
    return sa.select(
        attempts.c.id.label("position"), attempts.c.reference.label("identifier"), attempts.c.line.label("line")
    ).where(
        attempts.c.id.between(*_span(batch)),
        unindexed(attempts.c.batch) == batch,
        sa.literal_column(told_or_old_sql("attempts", str(to_microseconds(now)))),
        certain_at <= to_microseconds(now),
        sa.or_(attempts.c.step == "primary", ~first_to_come),
    )


def _span(batch: str) -> tuple[sa.ScalarSelect[int], sa.ScalarSelect[int]]:
    """The ids of a batch's first and last message.

    Going through them in their order a claim begins where the last one ended; by the index on batches it would go
    through all of a million each time, and sort them.
    """
    some = attempts.alias("some")
    first = sa.select(sa.func.min(some.c.id)).where(some.c.batch == batch)
    last = sa.select(sa.func.max(some.c.id)).where(some.c.batch == batch)
    return first.scalar_subquery(), last.scalar_subquery()


def has_due(connection: sa.Connection, due: Due) -> bool:
    """Whether any of what is due has no entry yet."""
    return connection.execute(_without_entry(due).limit(1)).first() is not None


def _without_entry(due: Due) -> Due:
    some = due.subquery("due")
    wanted = sa.select(some.c.position, some.c.identifier, some.c.line)
    return wanted.where(~sa.exists().where(record_entries.c.identifier == some.c.identifier))


def to_be_saved(connection: sa.Connection) -> list[batches_.Batch]:
    """Batches of which something may have to be written to the record, oldest first; not those that save nothing."""
    query = sa.select(batches).where(batches.c.applied_plan.is_not(None), batches.c.saved_at.is_(None))
    found = connection.execute(query.order_by(batches.c.submitted_at)).mappings()
    return [batch for row in found if _saves((batch := batches_.Batch(**row)).spec)]


def that_save(connection: sa.Connection, some: Collection[str]) -> list[str]:
    """Those of some batches that save to the record."""
    query = sa.select(batches.c.batch, batches.c.spec).where(batches.c.batch.in_(some)).order_by(batches.c.batch)
    return [row.batch for row in connection.execute(query) if _saves(row.spec)]


def _saves(spec: str) -> bool:
    return bool(json.loads(spec).get("batch_file", {}).get("save_to_record", True))


# Claiming ------------------------------------------------------------------------------------------------------------


class Claimed(NamedTuple):
    """A new chunk, and the position after which to look for the next."""

    chunk: RecordChunk
    position: int


def claim(  # noqa: PLR0913 - a claim is made of this much
    connection: sa.Connection,
    batch: str,
    resource_type: str,
    due: Due,
    *,
    after: int,
    limit: int,
    owner: str,
    lease_until: datetime,
    now: datetime,
    token: Callable[[], str] = lambda: secrets.token_hex(4),
) -> Claimed | None:
    """Makes entries of up to ``limit`` of what is due after a position, in a new chunk; ``None`` for none.

    ``token`` makes its reference unlike any that was ever used, also by a ledger that was lost or restored.
    """
    wanted = _without_entry(due)
    rows = connection.execute(
        wanted.where(wanted.selected_columns.position > after).order_by(wanted.selected_columns.position).limit(limit)
    ).all()
    if not rows:
        return None
    number = connection.scalar(sa.select(sa.func.count()).where(record_chunks.c.batch == batch)) or 0
    chunk = RecordChunk(f"{batch}/{resource_type}/{number + 1:04d}-{token()}", batch, resource_type, 1, lease_until)
    held = {"owner": owner, "fence": 1, "lease_until": lease_until, "claimed_at": now}
    key = {"reference": chunk.reference, "batch": batch, "resource_type": resource_type}
    connection.execute(sa.insert(record_chunks).values(key | held))
    # Where another was quicker there is nothing to do: the chunk is only smaller, or empty.
    connection.execute(
        insert(connection, record_entries).on_conflict_do_nothing(),
        [{"identifier": row.identifier, "batch": batch, "line": row.line, "chunk": chunk.reference} for row in rows],
    )
    return Claimed(chunk, rows[-1].position)


def open_chunks(connection: sa.Connection, batch: str) -> list[RecordChunk]:
    """The chunks that aren't settled, oldest first."""
    query = (
        sa.select(*(record_chunks.c[name] for name in RecordChunk.__slots__))
        .where(record_chunks.c.batch == batch, record_chunks.c.settled_at.is_(None))
        .order_by(record_chunks.c.claimed_at, record_chunks.c.reference)
    )
    return [RecordChunk(*row) for row in connection.execute(query)]


def take_over(connection: sa.Connection, chunk: RecordChunk, owner: str, lease_until: datetime) -> RecordChunk | None:
    """Takes a chunk from a holder whose lease ran out; ``None`` when somebody was quicker, or it is settled."""
    values = {"fence": chunk.fence + 1, "owner": owner, "lease_until": lease_until}
    taken = _LEASES.change(connection, chunk, values)
    return replace(chunk, fence=chunk.fence + 1, lease_until=lease_until) if taken else None


def renew(connection: sa.Connection, chunk: RecordChunk, lease_until: datetime) -> RecordChunk | None:
    """Moves the end of a lease that is held; ``None`` when it was lost. To now: it is given up."""
    held = _LEASES.change(connection, chunk, {"lease_until": lease_until})
    return replace(chunk, lease_until=lease_until) if held else None


# Writing -------------------------------------------------------------------------------------------------------------


def unnoted(connection: sa.Connection, chunk: RecordChunk) -> list[str]:
    """The identifiers of a chunk of which nothing is known yet."""
    query = sa.select(record_entries.c.identifier).where(
        record_entries.c.chunk == chunk.reference, record_entries.c.outcome.is_(None)
    )
    return list(connection.scalars(query.order_by(record_entries.c.line, record_entries.c.identifier)))


def message_facts(connection: sa.Connection, identifiers: Sequence[str]) -> list[Facts]:
    """What there is to write of these messages, in the order of their lines; the App message before its fallback."""
    first = attempts.alias("first")
    its_first = sa.select(first.c.reference).where(
        first.c.batch == attempts.c.batch,
        first.c.patient == attempts.c.patient,
        first.c.step == "primary",
        attempts.c.step == "fallback",
    )
    query = sa.select(
        attempts.c.reference,
        its_first.scalar_subquery(),
        *(attempts.c[name] for name in ("channel", "nhs_number", "subject", "text")),
        sa.literal_column(attempt_state_sql("attempts")),
        sa.literal_column(entry_status_sql("attempts")),
        *(attempts.c[name] for name in ("failure_kind", "failure_code", "accepted_at", "delivered_at", "read_at")),
    ).where(one_of_texts(connection, attempts.c.reference, identifiers))
    return [Facts(*row) for row in connection.execute(query.order_by(attempts.c.line, attempts.c.step.desc()))]


def note(connection: sa.Connection, chunk: RecordChunk, noted: Collection[Noted], now: datetime) -> bool:
    """Notes what became of a chunk's entries, and settles it after the last; False when the lease was lost."""
    if not _LEASES.lock(connection, chunk):
        return False
    alike = defaultdict[tuple[Outcome, str | None], list[str]](list)
    for each in noted:
        alike[each.outcome, each.code].append(each.identifier)
    for (outcome, code), identifiers in alike.items():
        connection.execute(
            sa.update(record_entries)
            .where(
                record_entries.c.chunk == chunk.reference,
                record_entries.c.outcome.is_(None),
                one_of_texts(connection, record_entries.c.identifier, identifiers),
            )
            .values(outcome=outcome, code=code, noted_at=now)
        )
    if not unnoted(connection, chunk):
        _LEASES.settle(connection, chunk, now)
    return True


def references(connection: sa.Connection, batch: str) -> set[str]:
    """Of all the batch's chunks."""
    return set(connection.scalars(sa.select(record_chunks.c.reference).where(record_chunks.c.batch == batch)))


def adopt(
    connection: sa.Connection,
    batch: str,
    resource_type: str,
    reference: str,
    identifiers: Sequence[str],
    now: datetime,
) -> None:
    """Notes as written what was found written, in a chunk that this ledger has forgotten: it was restored from a copy."""
    known = sa.select(attempts.c.reference, attempts.c.line).where(
        one_of_texts(connection, attempts.c.reference, identifiers)
    )
    lines: dict[str, int] = {row.reference: row.line for row in connection.execute(known)}
    connection.execute(
        sa.insert(record_chunks).values(
            reference=reference,
            batch=batch,
            resource_type=resource_type,
            owner="found",
            fence=1,
            lease_until=now,
            claimed_at=now,
            settled_at=now,
        )
    )
    found = {"batch": batch, "chunk": reference, "outcome": _WRITTEN, "noted_at": now}
    connection.execute(
        insert(connection, record_entries).on_conflict_do_nothing(),
        [found | {"identifier": identifier, "line": lines.get(identifier)} for identifier in identifiers],
    )


# What a person is told -----------------------------------------------------------------------------------------------


def saved(connection: sa.Connection, batch: str) -> Saved:
    """How far the batch's messages are in the record."""
    query = (
        sa.select(record_entries.c.outcome, sa.func.count())
        .join(record_chunks, record_chunks.c.reference == record_entries.c.chunk)
        .where(record_entries.c.batch == batch, record_chunks.c.resource_type == "Communication")
        .group_by(record_entries.c.outcome)
    )
    found: Mapping[str | None, int] = {row[0]: row[1] for row in connection.execute(query)}
    return Saved(found.get(_WRITTEN, 0), found.get("refused", 0), found.get(None, 0))


def refusals(connection: sa.Connection, batch: str) -> list[Refusal]:
    """The entries that weren't taken, by line."""
    query = (
        sa.select(record_entries.c.line, record_entries.c.code)
        .where(record_entries.c.batch == batch, record_entries.c.outcome == "refused")
        .order_by(record_entries.c.line, record_entries.c.identifier)
    )
    return [Refusal(row.line, row.code) for row in connection.execute(query)]


def try_again(connection: sa.Connection, batch: str, by: str, now: datetime) -> int:
    """Lets what was refused be written as if nobody had tried; gives how many entries that are."""
    refused = sa.and_(record_entries.c.batch == batch, record_entries.c.outcome == "refused")
    count = connection.execute(sa.delete(record_entries).where(refused)).rowcount
    if count:
        batches_.mark_changed(connection, batch)
        audit.record(connection, now, by, "save_again", batch, {"entries": count})
    return count


def mark_saved(connection: sa.Connection, batch: str, changes: int, now: datetime) -> None:
    """Notes that nothing of a batch that has ended is left to write, until something of it changes.

    ``changes``: those of the batch when that was found. Where there are more by now, it is looked at again.
    """
    unchanged = sa.and_(batches.c.batch == batch, batches.c.changes == changes)
    connection.execute(sa.update(batches).where(unchanged).values(saved_at=now))
