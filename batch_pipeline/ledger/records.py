"""What is in patients' records: entries, claimed in chunks under a lease, and what became of each (SPEC 2.13).

An entry is there from the moment somebody sets out to write it; its identifier is unique, so nobody else does. What
isn't noted as written or refused when a lease runs out is found by whoever takes the chunk over, and finished as the
writer allows: ``batch_pipeline.records.saving``.
"""

import json
import secrets
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Literal, NamedTuple

import sqlalchemy as sa

from batch_pipeline.ledger import audit
from batch_pipeline.ledger import batches as batches_
from batch_pipeline.ledger.dialects import insert, one_of, one_of_texts, unindexed
from batch_pipeline.ledger.leases import Leases
from batch_pipeline.ledger.tables import (
    UNRECORDED,
    attempts,
    batches,
    observations,
    record_chunks,
    record_entries,
    responses,
    to_microseconds,
)
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
    """How many entries are in the record, were refused, and are being written."""

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
    """Of a fallback or a reminder: the reference of the message that it followed."""
    channel: str
    provider: str
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


def due_messages(connection: sa.Connection, batch: str, now: datetime) -> Due:
    """A batch's messages, of those it has by now, whose entry is certain by now (``rules.records``).

    A fallback, or a reminder, follows the first message: while that one's entry is still to come, it waits.
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
        attempts.c.id.between(*_span(connection, batch)),
        unindexed(attempts.c.batch) == batch,
        sa.literal_column(told_or_old_sql("attempts", str(to_microseconds(now)))),
        certain_at <= to_microseconds(now),
        sa.or_(attempts.c.step == "primary", ~first_to_come),
    )


ANSWERS = "/answers"
"""What the identifier of a patient's answers has behind the reference of the message that asked for them; an
observation's goes on after it."""


def due_responses(batch: str) -> Due:
    """The answers that patients of a batch have sent."""
    return sa.select(
        attempts.c.id.label("position"),
        (attempts.c.reference + ANSWERS).label("identifier"),
        responses.c.line.label("line"),
    ).where(_asked(), responses.c.batch == batch, responses.c.completed_at.is_not(None))


def due_observations(batch: str) -> Due:
    """What was observed in them, as far as it is listed."""
    return sa.select(
        observations.c.id.label("position"),
        observations.c.identifier.label("identifier"),
        observations.c.line.label("line"),
    ).where(observations.c.batch == batch)


def _asked() -> sa.ColumnElement[bool]:
    """That an attempt is the message that asked for the answers."""
    return sa.and_(
        attempts.c.batch == responses.c.batch, attempts.c.patient == responses.c.patient, attempts.c.step == "primary"
    )


def _span(connection: sa.Connection, batch: str) -> tuple[int, int]:
    """The ids of a batch's first and last message.

    Going through them in their order a claim begins where the last one ended; by the index on batches it would go
    through all of a million each time, and sort them. Asked by itself, and of ids that are reckoned with: PostgreSQL
    would else look for the first and the last id of all, passing over those of every other batch, at each claim.
    """
    reckoned = attempts.c.id + 0
    query = sa.select(sa.func.min(reckoned), sa.func.max(reckoned)).where(attempts.c.batch == batch)
    first, last = connection.execute(query).one()
    return (0, 0) if first is None else (first, last)


def has_due(connection: sa.Connection, due: Due) -> bool:
    """Whether any of what is due has no entry yet."""
    return connection.execute(_without_entry(due).limit(1)).first() is not None


def _without_entry(due: Due) -> Due:
    """Looked up entry by entry. As a join PostgreSQL compares each with all, while it takes the table for a small one."""
    some = due.subquery("due")
    entry = sa.select(record_entries.c.identifier).where(record_entries.c.identifier == some.c.identifier).limit(1)
    wanted = sa.select(some.c.position, some.c.identifier, some.c.line)
    return wanted.where(entry.scalar_subquery().is_(None))


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


def with_answers(connection: sa.Connection) -> list[str]:
    """Batches with answers that were sent and may have to be written to the record; not those that don't save theirs."""
    unrecorded = sa.exists().where(responses.c.batch == batches.c.batch, sa.text(UNRECORDED))
    found = connection.execute(sa.select(batches.c.batch, batches.c.spec).where(unrecorded).order_by(batches.c.batch))
    return [row.batch for row in found if _saves(row.spec) and _saves_answers(row.spec)]


def _saves_answers(spec: str) -> bool:
    return bool(json.loads(spec).get("batch_file", {}).get("message", {}).get("saves_responses", False))


# Answers -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Sent:
    """Answers that a patient has sent: personal, so not for logs."""

    identifier: str
    line: int
    nhs_number: str | None = field(repr=False)
    answers: str | None = field(repr=False)
    completed_at: datetime


_SENT = sa.select(
    (attempts.c.reference + ANSWERS).label("identifier"),
    responses.c.line,
    attempts.c.nhs_number,
    responses.c.answers,
    responses.c.completed_at,
).where(_asked(), responses.c.completed_at.is_not(None))


def sent_answers(connection: sa.Connection, identifiers: Collection[str]) -> list[Sent]:
    """The answers of these identifiers, and of those of observations in them, by line."""
    references = sorted({each.partition(ANSWERS)[0] for each in identifiers})
    query = _SENT.where(one_of_texts(connection, attempts.c.reference, references)).order_by(responses.c.line)
    return [Sent(*row) for row in connection.execute(query)]


def unlisted(connection: sa.Connection, batch: str, limit: int) -> list[Sent]:
    """Some of the answers whose observations aren't listed yet."""
    query = _SENT.where(responses.c.batch == batch, responses.c.listed_at.is_(None)).order_by(responses.c.line)
    return [Sent(*row) for row in connection.execute(query.limit(limit))]


def list_observations(
    connection: sa.Connection, batch: str, found: Collection[tuple[Sent, Sequence[str]]], now: datetime
) -> None:
    """Lists what is observed in answers, by its identifiers: they change no more, so it is the same at each try."""
    rows = [
        {"batch": batch, "line": sent.line, "identifier": identifier}
        for sent, identifiers in found
        for identifier in identifiers
    ]
    if rows:
        connection.execute(insert(connection, observations).on_conflict_do_nothing(), rows)
    lines = sorted(sent.line for sent, _ in found)
    whose = sa.and_(responses.c.batch == batch, one_of(connection, responses.c.line, lines))
    connection.execute(sa.update(responses).where(whose).values(listed_at=now))


def listed(connection: sa.Connection, batch: str) -> list[int]:
    """The lines of the answers whose observations are listed, and that aren't noted as being in the record."""
    query = sa.select(responses.c.line).where(
        responses.c.batch == batch, responses.c.listed_at.is_not(None), responses.c.recorded_at.is_(None)
    )
    return list(connection.scalars(query.order_by(responses.c.line)))


def mark_recorded(connection: sa.Connection, batch: str, lines: Sequence[int], now: datetime) -> None:
    """Notes that nothing of these lines' answers is left to write."""
    whose = sa.and_(responses.c.batch == batch, one_of(connection, responses.c.line, lines))
    connection.execute(sa.update(responses).where(whose).values(recorded_at=now))


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
    """The chunks that aren't settled; first the one that was held last the longest ago, so that each has its turn."""
    query = (
        sa.select(*(record_chunks.c[name] for name in RecordChunk.__slots__))
        .where(record_chunks.c.batch == batch, record_chunks.c.settled_at.is_(None))
        .order_by(record_chunks.c.lease_until, record_chunks.c.reference)
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
    """What there is to write of these messages, in the order of their lines; the first message before what followed."""
    first = attempts.alias("first")
    its_first = sa.select(first.c.reference).where(
        first.c.batch == attempts.c.batch,
        first.c.patient == attempts.c.patient,
        first.c.step == "primary",
        attempts.c.step != "primary",
    )
    query = sa.select(
        attempts.c.reference,
        its_first.scalar_subquery(),
        *(attempts.c[name] for name in ("channel", "provider", "nhs_number", "subject", "text")),
        sa.literal_column(attempt_state_sql("attempts")),
        sa.literal_column(entry_status_sql("attempts")),
        *(attempts.c[name] for name in ("failure_kind", "failure_code", "accepted_at", "delivered_at", "read_at")),
    ).where(one_of_texts(connection, attempts.c.reference, identifiers))
    return [
        Facts(*row)
        for row in connection.execute(
            query.order_by(attempts.c.line, attempts.c.step != "primary", attempts.c.queued_at)
        )
    ]


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
    asked = {identifier: identifier.partition(ANSWERS)[0] for identifier in identifiers}
    known = sa.select(attempts.c.reference, attempts.c.line).where(
        one_of_texts(connection, attempts.c.reference, sorted(set(asked.values())))
    )
    lines: dict[str, int] = {row.reference: row.line for row in connection.execute(known)}
    chunk = {"reference": reference, "batch": batch, "resource_type": resource_type, "owner": "found", "fence": 1}
    settled = {"lease_until": now, "claimed_at": now, "settled_at": now}
    connection.execute(insert(connection, record_chunks).values(chunk | settled).on_conflict_do_nothing())
    found = {"batch": batch, "chunk": reference, "outcome": _WRITTEN, "noted_at": now, "code": None}
    row = insert(connection, record_entries)
    renewed = {name: row.excluded[name] for name in ("chunk", "outcome", "noted_at", "code")}
    # Of one that was refused, or claimed in another chunk, when the copy was taken, it is true no longer.
    there = row.on_conflict_do_update(
        index_elements=["identifier"],
        set_=renewed,
        where=record_entries.c.outcome.is_distinct_from(_WRITTEN),
    )
    connection.execute(
        there, [found | {"identifier": identifier, "line": lines.get(asked[identifier])} for identifier in identifiers]
    )


# What a person is told -----------------------------------------------------------------------------------------------


def saved(connection: sa.Connection, batch: str) -> Saved:
    """How far the batch's messages are in the record."""
    every = _outcomes(connection, record_entries.c.batch == batch)
    replies = replies_saved(connection, batch)
    return Saved(*(count - other for count, other in zip(every, replies, strict=True)))


def replies_saved(connection: sa.Connection, batch: str) -> Saved:
    """How far is what its patients answered and booked."""
    chunks = sa.select(record_chunks.c.reference).where(
        record_chunks.c.batch == batch, record_chunks.c.resource_type != "Communication"
    )
    references = list(connection.scalars(chunks))
    if not references:
        return Saved(0, 0, 0)
    theirs = one_of_texts(connection, record_entries.c.chunk, references)
    return _outcomes(connection, sa.and_(record_entries.c.batch == batch, theirs))


def _outcomes(connection: sa.Connection, which: sa.ColumnElement[bool]) -> Saved:
    query = sa.select(record_entries.c.outcome, sa.func.count()).where(which).group_by(record_entries.c.outcome)
    found: Mapping[str | None, int] = {row[0]: row[1] for row in connection.execute(query)}
    return Saved(found.get(_WRITTEN, 0), found.get("refused", 0), found.get(None, 0))


def to_come(connection: sa.Connection, batch: str) -> int:
    """How many of a batch's messages are written sooner or later, and neither in the record nor refused by now.

    Message by message: an entry of one that isn't written as things stand, as a restored ledger may have, counts for no
    other.
    """
    settled = sa.select(record_entries.c.identifier).where(
        record_entries.c.identifier == attempts.c.reference, record_entries.c.outcome.is_not(None)
    )
    query = sa.select(sa.func.count()).where(
        attempts.c.batch == batch,
        sa.literal_column(recorded_sql("attempts"), sa.Boolean()),
        settled.limit(1).scalar_subquery().is_(None),
    )
    return connection.scalar(query) or 0


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
        connection.execute(sa.update(responses).where(responses.c.batch == batch).values(recorded_at=None))
        batches_.mark_changed(connection, batch)
        audit.record(connection, now, by, "save_again", batch, {"entries": count})
    return count


def mark_saved(connection: sa.Connection, batch: str, changes: int, now: datetime) -> None:
    """Notes that nothing of a batch that has ended is left to write, until something of it changes.

    ``changes``: those of the batch when that was found. Where there are more by now, it is looked at again.
    """
    unchanged = sa.and_(batches.c.batch == batch, batches.c.changes == changes)
    connection.execute(sa.update(batches).where(unchanged).values(saved_at=now))
