from collections.abc import Sequence
from dataclasses import replace
from datetime import date, timedelta
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batch_pipeline.rules.blood_pressure import BANDS, Average, Pair, Reading, average, band

MONDAY = date(2026, 11, 23)


def day(number: int, *pairs: tuple[int, int]) -> list[Reading]:
    """The readings of the course's first, second … day."""
    return [Reading(MONDAY + timedelta(days=number - 1), systolic, diastolic) for systolic, diastolic in pairs]


FOUR_DAYS = [
    *day(1, (170, 100), (168, 98), (166, 96), (164, 94)),
    *day(2, (150, 90), (148, 88), (146, 86), (144, 84)),  # 588, 348
    *day(3, (142, 92), (140, 90), (138, 88), (136, 86)),  # 556, 356
    *day(4, (139, 89), (137, 87), (135, 85), (134, 84)),  # 545, 345
]
"""The last three: 1,689 / 12 = 140.75 and 1,049 / 12 = 87.42; the first day would make it 147.3 and 89.8."""


@pytest.mark.parametrize(
    ("readings", "expected", "valid"),
    [
        pytest.param(FOUR_DAYS, Average(141, 87, readings=12, days=3), True, id="NICE's shortest course"),
        pytest.param(
            FOUR_DAYS[:-1],  # without 134/84: 1,555 / 11 = 141.36 and 965 / 11 = 87.73
            Average(141, 88, readings=11, days=3), False, id="one reading short of it",
        ),
        pytest.param(
            [*FOUR_DAYS[:-1], *day(6, (150, 90))],  # 1,705 / 12 = 142.08 and 1,055 / 12 = 87.92
            Average(142, 88, readings=12, days=4), True, id="a missing one is made up for on another day",
        ),
        pytest.param(
            FOUR_DAYS[1:],  # one reading is left of the first day: it is the first day all the same
            Average(141, 87, readings=12, days=3), True, id="a first day with a single reading",
        ),
        pytest.param(
            FOUR_DAYS[4:],  # then day 2 is the first: 1,101 / 8 = 137.63 and 701 / 8 = 87.63
            Average(138, 88, readings=8, days=2), False, id="who began a day later has another first day",
        ),
        pytest.param(
            [*day(1, (180, 110)), *day(2, *[(130, 80)] * 6), *day(3, *[(140, 90)] * 6)],
            Average(135, 85, readings=12, days=2), False, id="enough readings, on too few days",
        ),
        pytest.param(
            [*day(1, (120, 80)), *day(2, (134, 84)), *day(3, (135, 85))],  # 134.5 and 84.5
            Average(135, 85, readings=2, days=2), False, id="halves go up",
        ),
        pytest.param(
            [*day(1, (120, 80)), *day(2, (134, 84), (134, 84)), *day(3, (135, 85))],  # 134.33 and 84.33
            Average(134, 84, readings=3, days=2), False, id="less than a half goes down",
        ),
        pytest.param(
            [*day(1, (120, 80)), *day(2, (100, 60)), *day(3, *[(140, 80)] * 3)],  # 520 / 4, not (100 + 140) / 2
            Average(130, 75, readings=4, days=2), False, id="readings count alike, not days",
        ),
        pytest.param(day(1, (150, 90), (140, 80)), None, False, id="nothing but the first day"),
        pytest.param([], None, False, id="nothing"),
    ],
)  # fmt: skip
def test_the_average_is_of_all_readings_but_the_first_days(
    readings: Sequence[Reading], expected: Average | None, valid: bool
) -> None:
    found = average(readings)
    assert found == expected
    assert (found is not None and found.valid) == valid


def test_seven_whole_days() -> None:
    # Days 2 to 7 rise by 2 and 1 a day: from 130/80 to 140/85, of which the middle is 135 and 82.5.
    week = [reading for n in range(1, 8) for reading in day(n, *[(126 + 2 * n, 78 + n)] * 4)]
    assert average(week) == Average(135, 83, readings=24, days=6)


READINGS = st.lists(
    st.builds(
        Reading,
        st.integers(0, 8).map(lambda days: MONDAY + timedelta(days=days)),
        st.integers(40, 300),
        st.integers(20, 200),
    )
)


@given(READINGS, st.randoms())
def test_in_whatever_order_readings_come_their_average_is_the_same(readings: list[Reading], chance: Random) -> None:
    shuffled = list(readings)
    chance.shuffle(shuffled)
    assert average(shuffled) == average(readings)


@given(READINGS)
def test_the_average_lies_among_the_readings_and_no_reading_of_the_first_day_moves_it(readings: list[Reading]) -> None:
    found = average(readings)
    first = min((reading.on for reading in readings), default=MONDAY)
    counted = [reading for reading in readings if reading.on > first]
    assert (found is None) == (not counted)
    if found is not None:
        assert found.readings == len(counted)
        assert min(r.systolic for r in counted) <= found.systolic <= max(r.systolic for r in counted)
        assert min(r.diastolic for r in counted) <= found.diastolic <= max(r.diastolic for r in counted)
        assert average([*readings, Reading(first, 300, 200)]) == found


@given(READINGS)
def test_no_average_is_very_high_unless_a_reading_was(readings: list[Reading]) -> None:
    """So whoever is told of every reading at once misses nothing by not looking at the average."""
    found = average(readings)
    if found is not None and (judged := band(found.systolic, found.diastolic, MONDAY)) and judged.urgent:
        assert any((b := band(r.systolic, r.diastolic, MONDAY)) and b.urgent for r in readings)


@pytest.mark.parametrize(
    ("systolic", "diastolic", "code"),
    [
        (180, 80, "very_high"),
        (179, 119, None),
        (179, 120, "very_high"),
        (120, 120, "very_high"),
        (250, 140, "very_high"),
        (90, 60, None),
        (89, 60, "low"),
        (90, 59, "low"),
        (70, 40, "low"),
        (185, 55, "very_high"),  # high in one number and low in the other: what can't wait goes first
        (135, 85, None),
        (190, None, "very_high"),
        (None, 125, "very_high"),
        (None, 55, "low"),
        (130, None, None),
        (None, None, None),
    ],
)
def test_one_number_is_enough_for_a_range(systolic: int | None, diastolic: int | None, code: str | None) -> None:
    found = band(systolic, diastolic, MONDAY)
    assert (found and found.code) == code


def test_very_high_alerts_the_practice_and_low_advises_the_patient_only() -> None:
    assert {row.code: row.urgent for row in BANDS} == {"very_high": True, "low": False}


def test_every_row_says_what_to_do_and_where_it_is_from() -> None:
    for row in BANDS:
        assert row.advice.heading
        assert row.advice.otherwise
        assert row.source
        assert bool(row.advice.symptoms) == bool(row.advice.emergency)
        assert (row.at_least is None) != (row.below is None)
    assert "999" in BANDS[0].advice.emergency
    assert "111" in BANDS[0].advice.otherwise


def test_a_later_row_counts_from_its_date_on_and_the_earlier_one_until_then() -> None:
    stricter = replace(BANDS[0], effective_from=MONDAY, at_least=Pair(170, 110))
    bands = (stricter, *BANDS)
    assert band(175, 80, MONDAY - timedelta(days=1), bands) is None
    assert band(175, 80, MONDAY, bands) is stricter
    assert band(180, 80, MONDAY - timedelta(days=1), bands) is BANDS[0]


def test_a_reading_on_a_day_without_any_row_is_not_passed_over() -> None:
    with pytest.raises(LookupError, match="2019-08-27"):
        band(200, 130, date(2019, 8, 27))
