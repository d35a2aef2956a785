"""Chunks: many messages handed to a provider in one call, under a lease, and what became of the call.

The dispatcher's protocol is in ``batch_pipeline.sending.dispatcher``; here is what it asks of the database. Who
holds a chunk is told by its fence: each takeover raises it, and whoever knows only an older one changes nothing.
"""

import secrets
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cache
from itertools import accumulate
from operator import itemgetter
from typing import Any, Literal, NamedTuple, cast

import sqlalchemy as sa

from batch_pipeline.ledger import controls
from batch_pipeline.ledger.dialects import (
    lock_in_order,
    octets,
    one_of_given,
    one_of_texts,
    queue_for,
    smaller,
    spelt_out,
)
from batch_pipeline.ledger.leases import Leases
from batch_pipeline.ledger.tables import UNSENT, Instant, attempts, batches, chunks, responses
from batch_pipeline.rules import steps

Outcome = Literal["accepted", "unconfirmed", "returned"]

_unsent_rows = sa.and_(*(sa.text(f"attempts.{term}") for term in UNSENT.split(" AND ")))


@dataclass(frozen=True, slots=True)
class Chunk:
    """A chunk as one process holds it, or sees another hold it."""

    reference: str
    batch: str
    step: str
    channel: str
    provider: str
    messages: int
    fence: int
    lease_until: datetime
    claimed_at: datetime
    waiting: bool = False
    """Its holder waits before the first call for it: no provider has anything of it."""


class Told(NamedTuple):
    """What is known of a chunk's messages once it is settled; those that are unsent again aren't counted."""

    accepted: int
    refused: int
    unconfirmed: int = 0


@dataclass(frozen=True, slots=True)
class Sendable:
    """Whether a batch's messages may go out now."""

    applied: bool
    paused: bool
    cancelled: bool
    fallbacks_cancelled: bool

    def lets(self, step: str) -> bool:
        """Whether messages of a step may be begun."""
        cancelled = self.fallbacks_cancelled if step == steps.FALLBACK else self.cancelled
        return self.applied and not self.paused and not cancelled


class Message(NamedTuple):
    """One message of a chunk: personal, so not for logs."""

    reference: str
    channel: str
    nhs_number: str
    address: str
    text: str
    subject: str | None
    line: int
    patient: str

    def __repr__(self) -> str:
        return f"Message({self.reference!r})"


class Claimed(NamedTuple):
    """A new chunk, and its messages in the order of ``messages``."""

    chunk: Chunk
    messages: list[Message]


# Statements that each chunk needs are made once: for a chunk of one message, to make them takes longer than to run them.

_FACTS = (
    batches.c.applied_plan,
    controls.is_paused().label("paused"),
    batches.c.cancelled_at,
    batches.c.fallbacks_cancelled_at,
)
_SENDABLE = sa.select(*_FACTS).where(batches.c.batch == sa.bindparam("of_batch"))
_SENDABLE_LOCKED = _SENDABLE.with_for_update(read=True)


def sendable(connection: sa.Connection, batch: str, *, lock: bool = False) -> Sendable:
    """What stands in the way of sending a registered batch.

    ``lock``, in a writing transaction alone: the answer holds until its end; a new plan and a pause wait for it.
    """
    if lock:
        queue_for(connection, batch, shared=True)
    return _sendable(connection.execute(_SENDABLE_LOCKED if lock else _SENDABLE, {"of_batch": batch}).one())


def _sendable(row: Any) -> Sendable:
    return Sendable(
        applied=row.applied_plan is not None,
        paused=bool(row.paused),
        cancelled=row.cancelled_at is not None,
        fallbacks_cancelled=row.fallbacks_cancelled_at is not None,
    )


@dataclass(frozen=True, slots=True)
class Room:
    """What one call holds, in bytes, and how many of those a message takes besides its texts and address."""

    bytes: int
    envelope: int


def _token() -> str:
    return secrets.token_hex(4)


def _columns(fields: type[NamedTuple]) -> list[sa.Column[Any]]:
    return [attempts.c[name] for name in fields._fields]


def claim(  # noqa: PLR0913 - a claim is made of this much
    connection: sa.Connection,
    batch: str,
    step: str,
    channel: str,
    *,
    provider: str,
    limit: int,
    number: int,
    owner: str,
    lease_until: datetime,
    now: datetime,
    room: Room | None = None,
    token: Callable[[], str] = _token,
) -> Claimed | None:
    """Puts up to ``limit`` unsent messages, as far as there is ``room``, into a new chunk, held under fence 1.

    At least one, however long it is; ``None`` when there are none. ``number`` is for people who look at a reference;
    ``token`` makes it unlike any ever used, also by a ledger that was lost, or restored from a copy: a provider that
    has seen a reference takes nothing more under it, and those patients would never hear.
    """
    query = _claimable(step, channel)
    if room is not None:
        query = query.add_columns(_size(connection, room))
    given = {"of_batch": batch, "of_provider": provider, "most": limit}
    rows = connection.execute(query, given).all()
    ids = [row[0] for row in rows] if room is None else _that_fit(cast(Sequence[tuple[int, int]], rows), room)
    if not ids:
        return None
    reference = f"{batch}/{step}/{channel}/{number:04d}-{token()}"
    chunk = Chunk(reference, batch, step, channel, provider, len(ids), 1, lease_until, now)
    row = {"reference": reference, "batch": batch, "step": step, "channel": channel, "provider": provider}
    held = {"messages": len(ids), "owner": owner, "fence": 1, "lease_until": lease_until, "claimed_at": now}
    connection.execute(_INSERT, row | held)
    given = {"these": ids, "into": reference, "at": now}
    # In whatever order it comes upon them.
    taken = sorted(connection.execute(_take(connection.dialect.name), given).all(), key=itemgetter(0))
    return Claimed(chunk, [Message(*row[1:]) for row in taken])


_INSERT = sa.insert(chunks)


@cache
def _take(dialect: str) -> sa.Executable:
    these = one_of_given(dialect, attempts.c.id, "these")
    taking = sa.update(attempts).where(these)
    taking = taking.values(chunk=sa.bindparam("into"), begun_at=sa.bindparam("at", type_=Instant()))
    return taking.returning(attempts.c.id, *_columns(Message))


@cache
def _claimable(step: str, channel: str) -> sa.Select[Any]:
    """On PostgreSQL what another is claiming is passed over; on SQLite there is nobody else then."""
    query = _unsent(step, channel).order_by(attempts.c.id).limit(sa.bindparam("most"))
    return query.with_for_update(of=attempts, skip_locked=True)


@cache
def _any_unsent(step: str, channel: str) -> sa.Select[Any]:
    return _unsent(step, channel).limit(1)


def _size(connection: sa.Connection, room: Room) -> sa.ColumnElement[int]:
    """Bytes that a message takes, a tenth more than its text has: quotes and line ends are escaped."""
    text = octets(connection, attempts.c.text) + octets(connection, attempts.c.subject)
    return room.envelope + text + text // 10 + octets(connection, attempts.c.address)


def _that_fit(sizes: Sequence[tuple[int, int]], room: Room) -> list[int]:
    so_far = accumulate(size for _, size in sizes)
    return [number for (number, _), total in zip(sizes, so_far, strict=True) if total <= room.bytes] or [
        number for number, _ in sizes[:1]
    ]


def _unsent(step: str, channel: str) -> sa.Select[Any]:
    query = sa.select(attempts.c.id).where(
        attempts.c.batch == sa.bindparam("of_batch"),
        attempts.c.step == spelt_out(step),
        attempts.c.channel == spelt_out(channel),
        attempts.c.provider == sa.bindparam("of_provider"),
        _unsent_rows,
    )
    needless = _needless(step)
    return query if needless is None else query.where(~needless)


def has_unsent(connection: sa.Connection, batch: str, step: str, channel: str, provider: str) -> bool:
    """Whether anything waits to be sent by this channel and provider."""
    given = {"of_batch": batch, "of_provider": provider}
    return connection.execute(_any_unsent(step, channel), given).first() is not None


def count(connection: sa.Connection, batch: str, step: str, channel: str) -> int:
    """How many chunks there are, whatever became of them."""
    query = sa.select(sa.func.count()).where(
        chunks.c.batch == batch, chunks.c.step == step, chunks.c.channel == channel
    )
    return connection.scalar(query) or 0


def unsent(connection: sa.Connection, batch: str, step: str) -> Mapping[tuple[str, str], int]:
    """How many messages of a step wait to be sent, by channel and provider."""
    query = (
        sa.select(attempts.c.channel, attempts.c.provider, sa.func.count())
        .where(attempts.c.batch == batch, attempts.c.step == step, _unsent_rows)
        .group_by(attempts.c.channel, attempts.c.provider)
    )
    return {(channel, provider): count for channel, provider, count in connection.execute(query)}


def open_chunks(connection: sa.Connection, batch: str, step: str) -> list[Chunk]:
    """The chunks that no answer is recorded for, oldest first."""
    query = (
        sa.select(chunks)
        .where(chunks.c.batch == batch, chunks.c.step == step, chunks.c.settled_at.is_(None))
        .order_by(chunks.c.claimed_at, chunks.c.reference)
    )
    return [_chunk(row) for row in connection.execute(query)]


def one(connection: sa.Connection, reference: str) -> Chunk:
    """The chunk of that reference."""
    return _chunk(connection.execute(sa.select(chunks).where(chunks.c.reference == reference)).one())


def _chunk(row: sa.Row[Any]) -> Chunk:
    return Chunk(
        row.reference,
        row.batch,
        row.step,
        row.channel,
        row.provider,
        row.messages,
        row.fence,
        row.lease_until,
        row.claimed_at,
        row.waiting,
    )


def take_over(connection: sa.Connection, chunk: Chunk, owner: str, lease_until: datetime) -> Chunk | None:
    """Takes a chunk from a holder whose lease ran out; ``None`` when somebody was quicker, or it is settled.

    It isn't ``waiting`` any more: who takes it over may post it, and die.
    """
    return _hold(connection, chunk, fence=chunk.fence + 1, owner=owner, lease_until=lease_until)


def renew(connection: sa.Connection, chunk: Chunk, lease_until: datetime, *, waiting: bool = False) -> Chunk | None:
    """Moves the end of a lease that is held; ``None`` when it was lost."""
    return _hold(connection, chunk, fence=chunk.fence, lease_until=lease_until, waiting=waiting)


def _hold(
    connection: sa.Connection, chunk: Chunk, *, fence: int, lease_until: datetime, waiting: bool = False, **more: Any
) -> Chunk | None:
    values = {"fence": fence, "lease_until": lease_until, "waiting": waiting, **more}
    held = _LEASES.change(connection, chunk, values)
    return replace(chunk, fence=fence, lease_until=lease_until, waiting=waiting) if held else None


_LEASES = Leases(chunks, "outcome")
_IS_HELD = sa.select(*_FACTS).join_from(batches, chunks, chunks.c.batch == batches.c.batch).where(_LEASES.held)


def standing(connection: sa.Connection, chunk: Chunk) -> Sendable | None:
    """What stands in the way of sending a chunk that is still held as this process knows it; ``None`` if it isn't."""
    row = connection.execute(_IS_HELD, _LEASES.key(chunk)).one_or_none()
    return None if row is None else _sendable(row)


_MESSAGES = sa.select(*_columns(Message)).where(attempts.c.chunk == sa.bindparam("of_chunk")).order_by(attempts.c.id)
_MINE = sa.select(attempts.c.id).where(attempts.c.chunk == sa.bindparam("of_chunk"))
_UNANSWERED = _MESSAGES.where(attempts.c.accepted_at.is_(None), attempts.c.failed_at.is_(None))


def messages(connection: sa.Connection, chunk: Chunk, *, unanswered: bool = False) -> list[Message]:
    """The chunk's messages in a fixed order; ``unanswered``: without those known to be accepted or refused."""
    rows = connection.execute(_UNANSWERED if unanswered else _MESSAGES, {"of_chunk": chunk.reference})
    return [Message(*row) for row in rows]


def record_part(
    connection: sa.Connection,
    chunk: Chunk,
    accepted: Iterable[str],
    refused: Iterable[tuple[str, str]],
    now: datetime,
) -> bool:
    """Records what is known of an open chunk's messages (references; reference, failure code); the others stay open.

    False when the lease was lost.
    """
    if not _lock(connection, chunk):
        return False
    _fail(connection, refused, now)
    statement = (
        sa.update(attempts)
        .where(attempts.c.reference == sa.bindparam("held"))
        .values(accepted_at=smaller(attempts.c.accepted_at, sa.bindparam("at", type_=Instant())))
    )
    rows = [{"held": reference, "at": now} for reference in accepted]
    if rows:
        connection.execute(statement, rows)
    return True


def settle(connection: sa.Connection, chunk: Chunk, refused: Iterable[tuple[str, str]], now: datetime) -> Told | None:
    """Records an answer: ``refused`` (reference, failure code), all others accepted; ``None`` when the lease was lost."""
    if not _close(connection, chunk, "accepted", now):
        return None
    _fail(connection, refused, now)
    accepted = connection.execute(_ACCEPT, {"of_chunk": chunk.reference, "at": now}).rowcount
    return Told(accepted, chunk.messages - accepted)


def leave_unconfirmed(connection: sa.Connection, chunk: Chunk, now: datetime) -> Told | None:
    """Leaves what nothing can be known about of a chunk to a person; ``None`` when the lease was lost."""
    if not _close(connection, chunk, "unconfirmed", now):
        return None
    unanswered = sa.and_(attempts.c.accepted_at.is_(None), attempts.c.failed_at.is_(None))
    unconfirmed = connection.execute(
        sa.update(attempts).where(attempts.c.chunk == chunk.reference, unanswered).values(unconfirmed_at=now)
    ).rowcount
    return _told(connection, chunk)._replace(unconfirmed=unconfirmed)


def give_back(
    connection: sa.Connection, chunk: Chunk, refused: Iterable[tuple[str, str]], now: datetime
) -> Told | None:
    """Settles a chunk of whose last post the provider surely took nothing; ``None`` when the lease was lost.

    The messages in ``refused`` (reference, failure code) have failed; the others are unsent again, but for those
    known to be with the provider from an earlier post: they stay begun, for ever, and are accepted.
    """
    if not _close(connection, chunk, "returned", now):
        return None
    _fail(connection, refused, now)
    mine = attempts.c.chunk == chunk.reference
    connection.execute(
        sa.update(attempts)
        .where(mine, _not_refused, sa.not_(untold))
        .values(accepted_at=smaller(attempts.c.accepted_at, sa.literal(now, Instant())))
    )
    connection.execute(sa.update(attempts).where(mine, untold).values(chunk=None, begun_at=None))
    return _told(connection, chunk)


def _told(connection: sa.Connection, chunk: Chunk) -> Told:
    return Told(*connection.execute(_TOLD, {"of_chunk": chunk.reference}).one())


untold = sa.and_(
    *(attempts.c[name].is_(None) for name in ("accepted_at", "delivered_at", "read_at", "failed_at")),
)
"""Neither an answer nor a receipt says that a provider has seen the message."""

_not_refused = sa.or_(attempts.c.failure_kind.is_(None), attempts.c.failure_kind != "refused")
_ACCEPT = (
    sa.update(attempts)
    .where(attempts.c.chunk == sa.bindparam("of_chunk"), _not_refused)
    .values(accepted_at=smaller(attempts.c.accepted_at, sa.bindparam("at", type_=Instant())))
)
_TOLD = sa.select(
    sa.func.count().filter(attempts.c.accepted_at.is_not(None)),
    sa.func.count().filter(attempts.c.failure_kind == "refused"),
).where(attempts.c.chunk == sa.bindparam("of_chunk"))


def _fail(connection: sa.Connection, refused: Iterable[tuple[str, str]], now: datetime) -> None:
    rows = [{"refused": reference, "code": code} for reference, code in refused]
    if rows:
        connection.execute(
            sa.update(attempts)
            .where(attempts.c.reference == sa.bindparam("refused"), attempts.c.failed_at.is_(None))
            .values(failed_at=now, failure_kind="refused", failure_code=sa.bindparam("code")),
            rows,
        )


def _lock(connection: sa.Connection, chunk: Chunk) -> bool:
    held = _LEASES.lock(connection, chunk)
    if held:
        _lock_messages(connection, chunk)
    return held


def _close(connection: sa.Connection, chunk: Chunk, outcome: Outcome, now: datetime) -> bool:
    closed = _LEASES.settle(connection, chunk, now, outcome=outcome)
    if closed:
        _lock_messages(connection, chunk)
    return closed


def _lock_messages(connection: sa.Connection, chunk: Chunk) -> None:
    """As whoever folds receipts does: else each could wait for a row that the other has."""
    lock_in_order(connection, attempts, _MINE, {"of_chunk": chunk.reference})


def count_begun(connection: sa.Connection, batch: str, step: str) -> int:
    """How many messages of a step are in chunks, answered or not."""
    query = sa.select(sa.func.coalesce(sa.func.sum(chunks.c.messages), 0)).where(
        chunks.c.batch == batch,
        chunks.c.step == step,
        sa.or_(chunks.c.outcome.is_(None), chunks.c.outcome != "returned"),
    )
    return connection.scalar(query) or 0


_EVERYBODY = sa.true()


def take_back_fallbacks(connection: sa.Connection, batch: str, whose: sa.ColumnElement[bool] = _EVERYBODY) -> int:
    """Takes back every fallback that isn't begun: it is due again, and decided anew; gives how many.

    What was known when it was queued may be days old. ``whose``: condition on the row of a fallback.
    """
    unsent = sa.and_(attempts.c.batch == batch, attempts.c.step == steps.FALLBACK, _unsent_rows, whose)
    lock_in_order(connection, attempts, sa.select(attempts.c.id).where(unsent))
    patients = connection.scalars(sa.delete(attempts).where(unsent).returning(attempts.c.patient)).all()
    if patients:
        primary = sa.and_(attempts.c.step == "primary", one_of_texts(connection, attempts.c.patient, patients))
        connection.execute(sa.update(attempts).where(attempts.c.batch == batch, primary).values(fallback_at=None))
    return len(patients)


def drop_needless(connection: sa.Connection, batch: str, step: str) -> None:
    """Takes back what isn't begun of a step and isn't needed any more.

    Fallbacks whose App message was read meanwhile, reminders whose patient has answered.
    """
    needless = _needless(step)
    if needless is None:
        return
    mine = sa.and_(attempts.c.batch == batch, attempts.c.step == step, _unsent_rows)
    lock_in_order(connection, attempts, sa.select(attempts.c.id).where(mine, needless))
    patients = connection.scalars(sa.select(attempts.c.patient).where(mine, needless)).all()
    for patient in patients:
        # Again only where unsent: on PostgreSQL another process may have begun it since it was looked for.
        dropped = connection.execute(sa.delete(attempts).where(mine, attempts.c.patient == patient)).rowcount
        if dropped and step == steps.FALLBACK:
            primary = sa.and_(attempts.c.batch == batch, attempts.c.patient == patient, attempts.c.step == "primary")
            connection.execute(sa.update(attempts).where(primary).values(fallback_at=None))


def _needless(step: str) -> sa.ColumnElement[bool] | None:
    """Condition on an unsent message of a step: there is no reason any more to send it. None: there always is."""
    if step == steps.FALLBACK:
        return sa.and_(attempts.c.channel == "sms", _read_in_app())
    return _has_answered() if step in steps.REMINDERS else None


def _has_answered() -> sa.ColumnElement[bool]:
    return sa.exists().where(
        responses.c.batch == attempts.c.batch,
        responses.c.patient == attempts.c.patient,
        responses.c.completed_at.is_not(None),
    )


def _read_in_app() -> sa.ColumnElement[bool]:
    """Whether the patient of a fallback has read the App message after all."""
    primary = attempts.alias("app_message")
    return sa.exists().where(
        primary.c.batch == attempts.c.batch,
        primary.c.patient == attempts.c.patient,
        primary.c.step == "primary",
        primary.c.read_at.is_not(None),
    )
