"""What a ledger that was restored without its claims journal may have forgotten: all that it takes to be unsent.

Each such message gets a chunk that is settled already: accepted where the provider has it, else unconfirmed, for a
person to resolve.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Literal, NamedTuple
from uuid import uuid4

import sqlalchemy as sa

from batch_pipeline.ledger import audit
from batch_pipeline.ledger import batches as batches_
from batch_pipeline.ledger.controls import RESTORED
from batch_pipeline.ledger.dialects import lock_in_order, one_of, unindexed
from batch_pipeline.ledger.tables import FALLBACK_OPEN, REMINDER_OPEN, UNSENT, attempts, chunks


class Kind(NamedTuple):
    """What the messages of a chunk have in common."""

    batch: str
    step: str
    channel: str
    provider: str


AT_ONCE = 5_000
"""Messages that are asked for, and settled, at one time."""


class Unsent(NamedTuple):
    """A message that isn't begun, as far as the ledger knows."""

    id: int
    reference: str
    queued_at: datetime


def last_claim(connection: sa.Connection) -> datetime | None:
    """When a dispatch last claimed a chunk, as far as the ledger knows: the copy was taken after that.

    Not what reconciling has put back, or settled: it may have been claimed after the copy.
    """
    return connection.scalar(
        sa.select(sa.func.max(chunks.c.claimed_at, type_=chunks.c.claimed_at.type)).where(chunks.c.owner != RESTORED)
    )


def may_have_gone(connection: sa.Connection, batch: str) -> bool:
    """Whether anything of a batch isn't begun, or may still fall back or be reminded: the rest is known to have gone."""
    mine = unindexed(attempts.c.batch) == batch
    there = (
        sa.select(sa.literal(1)).where(sa.text(rows), mine).limit(1) for rows in (UNSENT, FALLBACK_OPEN, REMINDER_OPEN)
    )
    return any(connection.scalar(query) is not None for query in there)


def kinds(connection: sa.Connection, batch: str) -> list[Kind]:
    """What the batch's messages that aren't begun have in common, each kind once."""
    wanted = [attempts.c[name] for name in Kind._fields]
    query = sa.select(*wanted).where(attempts.c.batch == batch, sa.text(UNSENT)).distinct().order_by(*wanted)
    return [Kind(*row) for row in connection.execute(query)]


def unsent(connection: sa.Connection, kind: Kind, after: int) -> list[Unsent]:
    """The next messages of a kind that aren't begun, in the order of their ids, after that one."""
    query = (
        sa.select(*(attempts.c[name] for name in Unsent._fields))
        .where(*_is_of(kind), sa.text(UNSENT), attempts.c.id > after)
        .order_by(attempts.c.id)
        .limit(AT_ONCE)
    )
    return [Unsent(*row) for row in connection.execute(query)]


def _is_of(kind: Kind) -> list[sa.ColumnElement[bool]]:
    return [attempts.c[name] == value for name, value in kind._asdict().items()]


def settle(
    connection: sa.Connection,
    kind: Kind,
    messages: Sequence[Unsent],
    by: str,
    now: datetime,
    *,
    outcome: Literal["accepted", "unconfirmed"],
) -> int:
    """Puts messages into a chunk of their own, with this outcome; gives how many.

    Not those of which more is known since they were looked for: by a receipt, a cancel, or another who does the same.
    """
    if not messages:
        return 0
    batches_.get(connection, kind.batch, lock=True)
    wanted = one_of(connection, attempts.c.id, [message.id for message in messages])
    still = sa.select(attempts.c.id).where(wanted, sa.text(UNSENT))
    lock_in_order(connection, attempts, still)
    ids = list(connection.scalars(still))
    if not ids:
        return 0
    reference = f"{kind.batch}/{kind.step}/{kind.channel}/restored-{uuid4().hex[:12]}"
    held = {"messages": len(ids), "owner": RESTORED, "fence": 1, "lease_until": now, "claimed_at": now}
    row = {**kind._asdict(), **held, "reference": reference, "settled_at": now, "outcome": outcome}
    connection.execute(sa.insert(chunks), row)
    told = {"accepted": "accepted_at", "unconfirmed": "unconfirmed_at"}[outcome]
    these = one_of(connection, attempts.c.id, ids)
    connection.execute(sa.update(attempts).where(these).values({"chunk": reference, "begun_at": now, told: now}))
    batches_.mark_changed(connection, kind.batch)
    detail = {"chunk": reference, "messages": len(ids), "outcome": outcome}
    audit.record(connection, now, by, "reconcile_without_journal", kind.batch, detail)
    return len(ids)
