"""The circuit breaker: pauses a batch when one of its channels fails too often (SPEC 2.7).

What was begun before a person resumed the batch isn't counted again.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import datetime

import sqlalchemy as sa

from batch_pipeline.clocks import seconds_since_boot
from batch_pipeline.ledger import batches as batches_
from batch_pipeline.ledger import controls
from batch_pipeline.ledger.controls import BREAKER, Pause
from batch_pipeline.ledger.dialects import unindexed
from batch_pipeline.ledger.engine import Ledger
from batch_pipeline.ledger.tables import EPOCH, FAILED, Instant, attempts, batches
from batch_pipeline.rules.circuit_breaker import BreakerRule, Tally, beyond, could_be_beyond
from batch_pipeline.rules.states import attempt_state_sql

_LABELS = {"email": "email", "nhs_app": "NHS App", "sms": "SMS"}

# At most so many have failed by channel, since a person last resumed the batch after the breaker; none where it is
# paused already. Found by an index that only failures are in.
_FAILURES = (
    sa.select(attempts.c.channel, batches.c.breaker_from, sa.func.count())
    .join_from(batches, attempts, attempts.c.batch == batches.c.batch)
    .where(
        batches.c.batch == sa.bindparam("of_batch"),
        batches.c.paused_at.is_(None),
        sa.text(f"attempts.{FAILED}"),
        attempts.c.begun_at > sa.func.coalesce(batches.c.breaker_from, sa.literal(EPOCH, Instant())),
    )
    .group_by(attempts.c.channel, batches.c.breaker_from)
)


_LOOK_AGAIN = 1.0
"""Seconds after which the ledger is asked though this run knows of no reason: others' messages fail, too."""


@dataclass(slots=True)
class Breaker:
    """One run's watch over a batch."""

    ledger: Ledger
    batch: str
    rule: BreakerRule
    steady: Callable[[], float] = seconds_since_boot
    answered: dict[tuple[str, datetime], int] = field(default_factory=dict[tuple[str, datetime], int])
    """At least so many had an answer when all were counted last, by channel and since when. Their number only grows."""
    failed: int = 0
    """So many had failed when the ledger was asked last, and were refused in this run since."""
    look_again: float = 0
    """When to ask it again, by the steady clock."""

    def after_receipts(self, now: datetime) -> Pause | None:
        """Pauses the batch if a channel of it fails beyond the rule; gives that pause."""
        self.answered.clear()
        return self._look(now)

    def after_chunk(self, refused: int, now: datetime) -> Pause | None:
        """As ``after_receipts``, where no receipts came: then a million messages are counted but a few times.

        ``refused``: how many messages of the chunk. The ledger is asked where those and what it told before could be too
        many, or for what other processes have come to know.
        """
        self.failed += refused
        at_least = min(self.answered.values(), default=0)
        if self.steady() < self.look_again and not could_be_beyond(self.failed, at_least, self.rule):
            return None
        return self._look(now)

    def _look(self, now: datetime) -> Pause | None:
        with self.ledger.read() as connection:
            failures = [(row[0], row[1], row[2]) for row in connection.execute(_FAILURES, {"of_batch": self.batch})]
            because = self._reason(connection, failures)
        self.failed = sum(failed for _, _, failed in failures)
        self.look_again = self.steady() + _LOOK_AGAIN
        if because is None:
            return None
        since = failures[0][1]
        with self.ledger.write() as connection:
            if batches_.get(connection, self.batch, lock=True).breaker_from != since:
                return None  # somebody has resumed it since it was counted
            pause, new = controls.pause(connection, self.batch, BREAKER, because, now)
        return pause if new else None

    def _reason(self, connection: sa.Connection, failures: Iterable[tuple[str, datetime | None, int]]) -> str | None:
        for channel, breaker_from, failed in failures:
            known = channel, breaker_from or EPOCH
            if not could_be_beyond(failed, self.answered.get(known, 0), self.rule):
                continue
            tally = _tally(connection, self.batch, *known)
            self.answered[known] = tally.answered
            counts = beyond(tally, self.rule)
            if counts is not None:
                too_many = f"more than {100 * self.rule.share:.4g} %"
                return f"{counts[0]:,} of {counts[1]:,} messages by {_LABELS[channel]} failed, {too_many}"
        return None


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
