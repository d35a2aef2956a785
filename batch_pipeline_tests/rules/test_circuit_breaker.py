import pytest
from hypothesis import given
from hypothesis import strategies as st

from batch_pipeline.rules.circuit_breaker import STANDARD, BreakerRule, Tally, beyond, could_be_beyond


@pytest.mark.parametrize(
    ("tally", "trips"),
    [
        (Tally(reached=449, waiting=0, failed=51, refused=0), (51, 500)),
        (Tally(reached=450, waiting=0, failed=50, refused=0), None),
        (Tally(reached=0, waiting=0, failed=499, refused=0), None),
        (Tally(reached=0, waiting=0, failed=500, refused=0), (500, 500)),
        # Refusals are known at once, deliveries later: they are measured by all that was answered.
        (Tally(reached=0, waiting=9_000, failed=0, refused=600), None),
        (Tally(reached=0, waiting=5_000, failed=0, refused=600), (600, 5_600)),
        (Tally(reached=400, waiting=40, failed=30, refused=30), (60, 500)),
        # What was heard of is enough, whatever else waits.
        (Tally(reached=440, waiting=100_000, failed=60, refused=0), (60, 500)),
        (Tally(reached=0, waiting=0, failed=0, refused=0), None),
    ],
)
def test_more_than_a_tenth_of_at_least_500(tally: Tally, trips: tuple[int, int] | None) -> None:
    assert beyond(tally, STANDARD) == trips


def test_the_share_and_the_least_are_settings() -> None:
    tally = Tally(reached=8, waiting=0, failed=2, refused=0)
    assert beyond(tally, BreakerRule(share=0.1, least=10)) == (2, 10)
    assert beyond(tally, BreakerRule(share=0.2, least=10)) is None
    assert beyond(tally, BreakerRule(share=0.1, least=11)) is None
    assert beyond(Tally(0, 0, 1_000, 1_000), BreakerRule(share=1.0, least=1)) is None


_COUNT = st.integers(0, 2_000)


@given(st.builds(Tally, _COUNT, _COUNT, _COUNT, _COUNT), st.floats(0, 1), st.integers(1, 1_000))
def test_the_quick_look_overlooks_nothing(tally: Tally, share: float, least: int) -> None:
    rule = BreakerRule(share, least)
    failed = tally.failed + tally.refused
    told, answered = beyond(Tally(tally.reached, 0, tally.failed, 0), rule), beyond(tally, rule)
    if told or answered:
        assert could_be_beyond(failed, 0, rule)
    if answered == (failed, failed + tally.reached + tally.waiting):
        assert could_be_beyond(failed, tally.reached + tally.waiting, rule)
