from datetime import datetime, timedelta
from itertools import pairwise

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from batch_pipeline.ledger import paces
from batch_pipeline.ledger.engine import Ledger
from batch_pipeline_tests.ledger.given import NOW

SECOND = timedelta(seconds=1)


def book(ledger: Ledger, wall: datetime, requests: int = 1, account: str = "a") -> timedelta:
    with ledger.write() as connection:
        return paces.book(connection, account, requests, 60, wall)


def test_the_first_goes_at_once_and_each_waits_for_those_before(ledger: Ledger) -> None:
    assert [book(ledger, NOW, requests) for requests in (5, 1, 1)] == [0 * SECOND, 5 * SECOND, 6 * SECOND]


def test_accounts_do_not_wait_for_one_another(ledger: Ledger) -> None:
    assert book(ledger, NOW, 30) == book(ledger, NOW, 30, "b") == 0 * SECOND


def test_time_without_requests_is_not_saved_up(ledger: Ledger) -> None:
    book(ledger, NOW)
    later = NOW + timedelta(hours=2)
    assert [book(ledger, later), book(ledger, later)] == [0 * SECOND, SECOND]


@pytest.mark.parametrize(("back", "wait"), [(timedelta(minutes=5), 301), (timedelta(days=1), 0)])
def test_a_clock_that_was_put_back_holds_nobody_up_for_long(ledger: Ledger, back: timedelta, wait: int) -> None:
    book(ledger, NOW)
    assert book(ledger, NOW - back) == wait * SECOND


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.floats(0, 20), st.integers(1, 10)), min_size=1, max_size=20), st.uuids())
def test_a_booking_begins_when_the_one_before_has_had_its_time(
    ledger: Ledger, bookings: list[tuple[float, int]], account: object
) -> None:
    wall, begun = NOW, list[tuple[datetime, int]]()
    for after, requests in bookings:
        wall += timedelta(seconds=round(after, 3))
        begun.append((wall + book(ledger, wall, requests, str(account)), requests))
    for (start, requests), (following, _) in pairwise(begun):
        assert following >= start + requests * SECOND
