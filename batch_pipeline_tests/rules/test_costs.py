from decimal import Decimal

import pytest

from batch_pipeline.rules.costs import Prices, Sent, cost, planned_cost, saved_by_app

PRICES = Prices("GBP", sms_fragment=Decimal("0.0265"), email=Decimal("0.001"), nhs_app=Decimal("0.01"))


def test_cost_counts_every_fragment_email_and_app_message_exactly() -> None:
    assert cost(Sent(emails=10, app_messages=7, sms_fragments=3), PRICES) == Decimal("0.1595")


def test_at_worst_every_app_message_that_can_fall_back_does() -> None:
    best, worst = planned_cost(Sent(0, 100, 10), 150, PRICES)
    assert best == Decimal("1.265")
    assert worst - best == 150 * Decimal("0.0265")


def test_the_app_saves_the_texts_of_those_who_read_there() -> None:
    assert saved_by_app(1000, PRICES) == Decimal("26.5")


def test_a_million_pennies_lose_nothing() -> None:
    assert cost(Sent(0, 0, 1_000_000), Prices(sms_fragment=Decimal("0.1"))) == 100_000


@pytest.mark.parametrize("price", ["-0.01", "NaN", "Infinity"])
def test_a_price_is_a_number_that_is_not_negative(price: str) -> None:
    with pytest.raises(ValueError, match="isn't negative"):
        Prices(sms_fragment=Decimal(price))
