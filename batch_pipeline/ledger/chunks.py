"""Chunks: many messages handed to a provider in one call, under a lease, and what became of the call.

The dispatcher's protocol is in ``batch_pipeline.sending.dispatcher``; here is what it asks of the database. Who
holds a chunk is told by its fence: each takeover raises it, and whoever knows only an older one changes nothing.
"""

import secrets
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Literal, NamedTuple

import sqlalchemy as sa

from batch_pipeline.ledger.dialects import octets, smaller
from batch_pipeline.ledger.tables import UNSENT, Instant, attempts, batches, chunks

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


class Message(NamedTuple):
    """One message of a chunk: personal, so not for logs."""

    reference: str
    channel: str
    nhs_number: str
    address: str
    text: str
    subject: str | None


def sendable(connection: sa.Connection, batch: str, *, lock: bool = False) -> Sendable:
    """What stands in the way of sending a registered batch.

    ``lock``, in a writing transaction alone: the answer holds until its end; a new plan and a pause wait for it.
    """
    query = sa.select(batches.c.applied_plan, batches.c.paused_at, batches.c.cancelled_at).where(
        batches.c.batch == batch
    )
    row = connection.execute(query.with_for_update(read=True) if lock else query).one()
    return Sendable(row.applied_plan is not None, row.paused_at is not None, row.cancelled_at is not None)


@dataclass(frozen=True, slots=True)
class Room:
    """What one call holds, in bytes, and how many of those a message takes besides its texts and address."""

    bytes: int
    envelope: int


def _token() -> str:
    return secrets.token_hex(4)


def claim(  # noqa: PLR0913 - a claim is made of this much
    connection: sa.Connection,
    batch: str,
    step: str,
    channel: str,
    *,
    provider: str,
    limit: int,
    owner: str,
    lease_until: datetime,
    now: datetime,
    room: Room | None = None,
    token: Callable[[], str] = _token,
) -> Chunk | None:
    """Puts up to ``limit`` unsent messages, as far as there is ``room``, into a new chunk, held under fence 1.

    At least one, however long it is; ``None`` when there are none.

    ``token`` makes the reference unlike any ever used, also by a ledger that was lost, or restored from a copy:
    a provider that has seen a reference takes nothing more under it, and those patients would never hear.
    """
    if not has_unsent(connection, batch, step, channel, provider):
        return None
    unsent = _unsent(batch, step, channel, provider).order_by(attempts.c.id).limit(limit)
    reference = f"{batch}/{step}/{channel}/{_next_number(connection, batch, step, channel):04d}-{token()}"
    chunk = Chunk(reference, batch, step, channel, provider, 0, 1, lease_until, now)
    connection.execute(
        sa.insert(chunks).values(
            reference=reference,
            batch=batch,
            step=step,
            channel=channel,
            provider=provider,
            messages=0,
            owner=owner,
            fence=1,
            lease_until=lease_until,
            claimed_at=now,
        )
    )
    # A CTE, which PostgreSQL evaluates once: a subquery with LIMIT and SKIP LOCKED it may run again for each row.
    if room is not None:
        unsent = unsent.add_columns(_size(connection, room).label("size"))
    picked = unsent.with_for_update(of=attempts, skip_locked=True).cte("picked")
    fitting = sa.select(picked.c.id) if room is None else _fitting(picked, room)
    connection.execute(sa.update(attempts).where(attempts.c.id.in_(fitting)).values(chunk=reference, begun_at=now))
    # Counted, because sqlite3 doesn't say how many rows an UPDATE changed that begins with its CTE.
    count = sa.select(sa.func.count()).where(attempts.c.chunk == reference)
    taken = connection.scalar(count) or 0
    if taken == 0:  # PostgreSQL: others hold all that is left
        connection.execute(sa.delete(chunks).where(chunks.c.reference == reference))
        return None
    connection.execute(sa.update(chunks).where(chunks.c.reference == reference).values(messages=taken))
    return replace(chunk, messages=taken)


def _size(connection: sa.Connection, room: Room) -> sa.ColumnElement[int]:
    """Bytes that a message takes, a tenth more than its text has: quotes and line ends are escaped."""
    text = octets(connection, attempts.c.text) + octets(connection, attempts.c.subject)
    return room.envelope + text + text // 10 + octets(connection, attempts.c.address)


def _fitting(picked: sa.CTE, room: Room) -> sa.Select[tuple[int]]:
    first = sa.select(sa.func.min(picked.c.id)).scalar_subquery()
    sizes = sa.select(picked.c.id, sa.func.sum(picked.c.size).over(order_by=picked.c.id).label("so_far")).subquery()
    return sa.select(sizes.c.id).where(sa.or_(sizes.c.so_far <= room.bytes, sizes.c.id == first))


def _unsent(batch: str, step: str, channel: str, provider: str) -> sa.Select[Any]:
    query = sa.select(attempts.c.id).where(
        attempts.c.batch == batch,
        attempts.c.step == step,
        attempts.c.channel == channel,
        attempts.c.provider == provider,
        _unsent_rows,
    )
    return query.where(~_read_in_app()) if step == "fallback" else query


def has_unsent(connection: sa.Connection, batch: str, step: str, channel: str, provider: str) -> bool:
    """Whether anything waits to be sent by this channel and provider."""
    return connection.execute(_unsent(batch, step, channel, provider).limit(1)).first() is not None


def _next_number(connection: sa.Connection, batch: str, step: str, channel: str) -> int:
    query = sa.select(sa.func.count()).where(
        chunks.c.batch == batch, chunks.c.step == step, chunks.c.channel == channel
    )
    return (connection.scalar(query) or 0) + 1


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
    return [
        Chunk(
            row.reference,
            row.batch,
            row.step,
            row.channel,
            row.provider,
            row.messages,
            row.fence,
            row.lease_until,
            row.claimed_at,
        )
        for row in connection.execute(query)
    ]


def take_over(connection: sa.Connection, chunk: Chunk, owner: str, lease_until: datetime) -> Chunk | None:
    """Takes a chunk from a holder whose lease ran out; ``None`` when somebody was quicker, or it is settled."""
    return _hold(connection, chunk, fence=chunk.fence + 1, owner=owner, lease_until=lease_until)


def renew(connection: sa.Connection, chunk: Chunk, lease_until: datetime) -> Chunk | None:
    """Moves the end of a lease that is held; ``None`` when it was lost."""
    return _hold(connection, chunk, fence=chunk.fence, lease_until=lease_until)


def _hold(connection: sa.Connection, chunk: Chunk, *, fence: int, lease_until: datetime, **more: Any) -> Chunk | None:
    held = connection.execute(
        sa.update(chunks).where(_is_held(chunk)).values(fence=fence, lease_until=lease_until, **more)
    ).rowcount
    return replace(chunk, fence=fence, lease_until=lease_until) if held else None


def _is_held(chunk: Chunk) -> sa.ColumnElement[bool]:
    return sa.and_(
        chunks.c.reference == chunk.reference,
        chunks.c.fence == chunk.fence,
        chunks.c.lease_until == chunk.lease_until,
        chunks.c.settled_at.is_(None),
    )


def is_held(connection: sa.Connection, chunk: Chunk) -> bool:
    """Whether the chunk is still held as this process knows it."""
    return connection.scalar(sa.select(sa.literal(1)).where(_is_held(chunk))) is not None


def messages(connection: sa.Connection, chunk: Chunk, *, unanswered: bool = False) -> list[Message]:
    """The chunk's messages in a fixed order; ``unanswered``: without those known to be accepted or refused."""
    query = (
        sa.select(*(attempts.c[name] for name in Message._fields))
        .where(attempts.c.chunk == chunk.reference)
        .order_by(attempts.c.id)
    )
    if unanswered:
        query = query.where(attempts.c.accepted_at.is_(None), attempts.c.failed_at.is_(None))
    return [Message(*row) for row in connection.execute(query)]


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
    connection.execute(
        sa.update(attempts)
        .where(attempts.c.chunk == chunk.reference, _not_refused)
        .values(accepted_at=smaller(attempts.c.accepted_at, sa.literal(now, Instant())))
    )
    return _told(connection, chunk)


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
        .where(mine, _not_refused, sa.not_(_untold))
        .values(accepted_at=smaller(attempts.c.accepted_at, sa.literal(now, Instant())))
    )
    connection.execute(sa.update(attempts).where(mine, _untold).values(chunk=None, begun_at=None))
    return _told(connection, chunk)


def _told(connection: sa.Connection, chunk: Chunk) -> Told:
    accepted = sa.func.count().filter(attempts.c.accepted_at.is_not(None))
    refused = sa.func.count().filter(attempts.c.failure_kind == "refused")
    return Told(*connection.execute(sa.select(accepted, refused).where(attempts.c.chunk == chunk.reference)).one())


_untold = sa.and_(
    *(attempts.c[name].is_(None) for name in ("accepted_at", "delivered_at", "read_at", "failed_at")),
)
"""Neither an answer nor a receipt says that a provider has seen the message."""

_not_refused = sa.or_(attempts.c.failure_kind.is_(None), attempts.c.failure_kind != "refused")


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
    query = sa.select(chunks.c.reference).where(_is_held(chunk)).with_for_update()
    return connection.scalar(query) is not None


def _close(connection: sa.Connection, chunk: Chunk, outcome: Outcome, now: datetime) -> bool:
    return bool(
        connection.execute(sa.update(chunks).where(_is_held(chunk)).values(settled_at=now, outcome=outcome)).rowcount
    )


def count_begun(connection: sa.Connection, batch: str, step: str) -> int:
    """How many messages of a step are in chunks, answered or not."""
    query = sa.select(sa.func.coalesce(sa.func.sum(chunks.c.messages), 0)).where(
        chunks.c.batch == batch,
        chunks.c.step == step,
        sa.or_(chunks.c.outcome.is_(None), chunks.c.outcome != "returned"),
    )
    return connection.scalar(query) or 0


def drop_needless(connection: sa.Connection, batch: str) -> int:
    """Takes back fallbacks that aren't begun and whose App message was read meanwhile; gives how many."""
    needless = sa.select(attempts.c.patient).where(
        attempts.c.batch == batch,
        attempts.c.step == "fallback",
        attempts.c.channel == "sms",
        _unsent_rows,
        _read_in_app(),
    )
    dropped = 0
    for patient in connection.scalars(needless).all():
        mine = sa.and_(attempts.c.batch == batch, attempts.c.patient == patient)
        # Again only where unsent: on PostgreSQL another process may have begun it since it was looked for.
        still_unsent = sa.delete(attempts).where(mine, attempts.c.step == "fallback", _unsent_rows)
        if connection.execute(still_unsent).rowcount:
            connection.execute(sa.update(attempts).where(mine, attempts.c.step == "primary").values(fallback_at=None))
            dropped += 1
    return dropped


def _read_in_app() -> sa.ColumnElement[bool]:
    """Whether the patient of a fallback has read the App message after all."""
    primary = attempts.alias("app_message")
    return sa.exists().where(
        primary.c.batch == attempts.c.batch,
        primary.c.patient == attempts.c.patient,
        primary.c.step == "primary",
        primary.c.read_at.is_not(None),
    )
