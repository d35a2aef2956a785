"""When a channel fails so often that a batch is to stop until a person has looked (SPEC 2.7)."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class BreakerRule:
    """Beyond which share of failures, of at least how many messages."""

    share: float
    least: int


STANDARD = BreakerRule(share=0.1, least=500)
"""Where a workspace says nothing else."""


@dataclass(frozen=True, slots=True)
class Tally:
    """What one channel's messages have come to. Those of which nothing is known yet, or will ever be, aren't here.

    A time-out of ours is no failure here: it says that nothing was heard, and by then there is nothing to stop.
    """

    reached: int
    """Delivered or read; an email: accepted."""
    waiting: int
    """Accepted, and nothing heard since."""
    failed: int
    """After they were accepted, whatever kind of failure."""
    refused: int
    """By the provider, outright."""

    @property
    def answered(self) -> int:
        """All of which a provider has said anything."""
        return self.reached + self.waiting + self.failed + self.refused


def beyond(tally: Tally, rule: BreakerRule) -> tuple[int, int] | None:
    """``(failed, of how many)`` of the question that is answered with too many; ``None`` when neither is.

    Asked of the messages whose end was told, as refusals are known long before deliveries; and of all that a
    provider answered, refusals with them.
    """
    told = (tally.failed, tally.failed + tally.reached)
    answered = (tally.failed + tally.refused, tally.answered)
    return next((counts for counts in (told, answered) if _too_many(*counts, rule)), None)


def could_be_beyond(failed: int, answered_at_least: int, rule: BreakerRule) -> bool:
    """Whether so many failures are worth a full count, of which it is known only how many messages there are at least."""
    return failed > rule.share * max(rule.least, answered_at_least)


def _too_many(failed: int, of: int, rule: BreakerRule) -> bool:
    return of >= rule.least and failed > rule.share * of
