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
from batch_pipeline.ledger.dialects import one_of
from batch_pipeline.ledger.tables import UNSENT, attempts, chunks


class Kind(NamedTuple):
    """What the messages of a chunk have in common."""

    batch: str
    step: str
    channel: str
    provider: str


class Unsent(NamedTuple):
    """A message that isn't begun, as far as the ledger knows."""

    id: int
    reference: str
    queued_at: datetime


def last_claim(connection: sa.Connection) -> datetime | None:
    """When the ledger last claimed a chunk, as far as it knows."""
    return connection.scalar(sa.select(sa.func.max(chunks.c.claimed_at, type_=chunks.c.claimed_at.type)))


def unsent(connection: sa.Connection, batch: str) -> dict[tuple[str, str, str], list[Unsent]]:
    """The batch's messages that aren't begun, by step, channel and provider."""
    query = (
        sa.select(*(attempts.c[name] for name in ("step", "channel", "provider", *Unsent._fields)))
        .where(attempts.c.batch == batch, sa.text(UNSENT))
        .order_by(attempts.c.id)
    )
    found: dict[tuple[str, str, str], list[Unsent]] = {}
    for row in connection.execute(query):
        message = Unsent(row.id, row.reference, row.queued_at)
        found.setdefault((row.step, row.channel, row.provider), []).append(message)
    return found


def settle(
    connection: sa.Connection,
    kind: Kind,
    messages: Sequence[Unsent],
    by: str,
    now: datetime,
    *,
    outcome: Literal["accepted", "unconfirmed"],
) -> None:
    """Puts messages into a chunk of their own, with this outcome."""
    if not messages:
        return
    reference = f"{kind.batch}/{kind.step}/{kind.channel}/restored-{uuid4().hex[:12]}"
    held = {"messages": len(messages), "owner": RESTORED, "fence": 1, "lease_until": now, "claimed_at": now}
    row = {**kind._asdict(), **held, "reference": reference, "settled_at": now, "outcome": outcome}
    connection.execute(sa.insert(chunks), row)
    told = {"accepted": "accepted_at", "unconfirmed": "unconfirmed_at"}[outcome]
    these = one_of(connection, attempts.c.id, [message.id for message in messages])
    connection.execute(sa.update(attempts).where(these).values({"chunk": reference, "begun_at": now, told: now}))
    batches_.mark_reported(connection, kind.batch, None)
    detail = {"chunk": reference, "messages": len(messages), "outcome": outcome}
    audit.record(connection, now, by, "reconcile_without_journal", kind.batch, detail)
