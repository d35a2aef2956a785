"""What a batch costs: planned, so far, and what the NHS App saved (SPEC 2.5, 2.10). Exact decimals, no rounding."""

from dataclasses import dataclass
from decimal import Decimal
from typing import NamedTuple

_NOTHING = Decimal(0)


@dataclass(frozen=True, slots=True)
class Prices:
    """The workspace's prices. ``ValueError`` for one that is negative or isn't a number."""

    currency: str = "GBP"
    sms_fragment: Decimal = _NOTHING
    email: Decimal = _NOTHING
    nhs_app: Decimal = _NOTHING

    def __post_init__(self) -> None:
        for price in (self.sms_fragment, self.email, self.nhs_app):
            if not price.is_finite() or price < 0:
                raise ValueError("a price is a decimal number that isn't negative")


class Sent(NamedTuple):
    """What providers took, or are planned to take: messages by email and App, and fragments by SMS."""

    emails: int
    app_messages: int
    sms_fragments: int


class PlannedCost(NamedTuple):
    """``best``: every App message is read. ``worst``: each one that can fall back does."""

    best: Decimal
    worst: Decimal


def cost(sent: Sent, prices: Prices) -> Decimal:
    """Every SMS fragment that a provider accepted (of failed ones too), and every email and App message."""
    return sent.sms_fragments * prices.sms_fragment + sent.emails * prices.email + sent.app_messages * prices.nhs_app


def planned_cost(planned: Sent, fallback_fragments: int, prices: Prices) -> PlannedCost:
    """``planned`` counts the primary messages; ``fallback_fragments`` the texts that App messages can fall back to."""
    best = cost(planned, prices)
    return PlannedCost(best, best + fallback_fragments * prices.sms_fragment)


def saved_by_app(fragments_not_sent: int, prices: Prices) -> Decimal:
    """What the texts of patients who read in the App, and got no text, would have cost."""
    return fragments_not_sent * prices.sms_fragment
