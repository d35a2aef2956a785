"""The circuit breaker: pauses a batch when one of its channels fails too often (SPEC 2.7).

What was begun before a person resumed the batch isn't counted again.
"""

from datetime import datetime

import sqlalchemy as sa

from batch_pipeline.ledger import batches as batches_
from batch_pipeline.ledger import controls
from batch_pipeline.ledger.controls import BREAKER, Pause
from batch_pipeline.ledger.dialects import unindexed
from batch_pipeline.ledger.engine import Ledger
from batch_pipeline.ledger.tables import EPOCH, FAILED, attempts, chunks
from batch_pipeline.rules.circuit_breaker import BreakerRule, Tally, beyond, could_be_beyond
from batch_pipeline.rules.paths import PATHS
from batch_pipeline.rules.states import attempt_state_sql

_LABELS = {"email": "email", "nhs_app": "NHS App", "sms": "SMS"}


def check(ledger: Ledger, batch: str, rule: BreakerRule, now: datetime, *, receipts: bool = True) -> Pause | None:
    """Pauses the batch if a channel of it fails beyond the rule; gives that pause. A paused batch isn't looked at.

    ``receipts``: some may have come since the last time. Without, only what a provider refused outright can have
    tipped the balance, and that is seldom worth counting a million messages for.
    """
    with ledger.read() as connection:
        known = batches_.get(connection, batch)
        if known.paused_at is not None:
            return None
        because = _reason(connection, batch, rule, known.breaker_from or EPOCH, receipts=receipts)
    if because is None:
        return None
    with ledger.write() as connection:
        if batches_.get(connection, batch, lock=True).breaker_from != known.breaker_from:
            return None  # somebody has resumed it since it was counted
        pause, new = controls.pause(connection, batch, BREAKER, because, now)
    return pause if new else None


def _reason(connection: sa.Connection, batch: str, rule: BreakerRule, since: datetime, *, receipts: bool) -> str | None:
    for channel in PATHS:
        accepted = 0 if receipts else _in_accepted_chunks(connection, batch, channel, since)
        if not could_be_beyond(_failures(connection, batch, channel, since), accepted, rule):
            continue
        counts = beyond(_tally(connection, batch, channel, since), rule)
        if counts is not None:
            failed, of = counts
            return f"{failed:,} of {of:,} messages by {_LABELS[channel]} failed, more than {100 * rule.share:.4g} %"
    return None


def _failures(connection: sa.Connection, batch: str, channel: str, since: datetime) -> int:
    """At most so many have failed: found by an index of the few."""
    query = sa.select(sa.func.count()).where(
        sa.text(FAILED), attempts.c.batch == batch, attempts.c.channel == channel, attempts.c.begun_at > since
    )
    return connection.scalar(query) or 0


def _in_accepted_chunks(connection: sa.Connection, batch: str, channel: str, since: datetime) -> int:
    """At least so many have an answer."""
    query = sa.select(sa.func.coalesce(sa.func.sum(chunks.c.messages), 0)).where(
        chunks.c.batch == batch,
        chunks.c.channel == channel,
        chunks.c.outcome == "accepted",
        chunks.c.claimed_at > since,
    )
    return connection.scalar(query) or 0


def _tally(connection: sa.Connection, batch: str, channel: str, since: datetime) -> Tally:
    """In one reading of the batch's rows, straight through."""
    span = sa.select(sa.func.min(attempts.c.id), sa.func.max(attempts.c.id)).where(attempts.c.batch == batch)
    first, last = connection.execute(span).one()
    state = sa.literal_column(attempt_state_sql("attempts"), sa.Text()).label("state")
    refused = (sa.func.coalesce(attempts.c.failure_kind, "") == "refused").label("refused")
    rows = (
        sa.select(state, refused)
        .where(
            attempts.c.id.between(first, last),
            unindexed(attempts.c.batch) == batch,
            attempts.c.channel == channel,
            attempts.c.begun_at > since,
        )
        .subquery()
    )
    grouped = sa.select(rows.c.state, rows.c.refused, sa.func.count()).group_by(rows.c.state, rows.c.refused)
    counted = {(state, bool(refused)): count for state, refused, count in connection.execute(grouped)}

    def of(state: str) -> int:
        return sum(count for (each, _), count in counted.items() if each == state)

    accepted = of("accepted")
    email = channel == "email"
    return Tally(
        reached=of("read") + of("delivered") + (accepted if email else 0),
        waiting=0 if email else accepted,
        failed=counted.get(("failed", False), 0),
        refused=counted.get(("failed", True), 0),
    )
