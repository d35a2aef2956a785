from dataclasses import replace
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batch_pipeline.rules import slots
from batch_pipeline.rules.slots import Changes, Known, NotASlot, Slot

LONDON = ZoneInfo("Europe/London")
NOW = datetime(2026, 10, 1, 9, tzinfo=UTC)
A = Slot("A", datetime(2026, 12, 1, 9, tzinfo=UTC), 10, "Nurse Brown", "Room 3", 2, line=2)
B = replace(A, id="B", line=3)


@pytest.mark.parametrize(
    ("written", "moment"),
    [
        ("2026-12-01T09:00", "2026-12-01T09:00+00:00"),
        ("2026-07-01T09:00", "2026-07-01T08:00+00:00"),
        (" 2026-07-01  9:05 ", "2026-07-01T08:05+00:00"),
        ("2026-07-01 09:05:00", "2026-07-01T08:05+00:00"),
        ("01/07/2026 09:05", "2026-07-01T08:05+00:00"),
        ("1/7/2026 9:05", "2026-07-01T08:05+00:00"),
        ("2026-07-01T09:05Z", "2026-07-01T09:05+00:00"),
        ("2026-07-01T09:05+02:00", "2026-07-01T07:05+00:00"),
        ("2026-10-25T01:30+01:00", "2026-10-25T00:30+00:00"),
        ("2026-10-25T01:30+00:00", "2026-10-25T01:30+00:00"),
        ("2026-10-25T00:59", "2026-10-24T23:59+00:00"),
        ("2026-10-25T02:00", "2026-10-25T02:00+00:00"),
        ("2027-03-28T00:59", "2027-03-28T00:59+00:00"),
        ("2027-03-28T02:00", "2027-03-28T01:00+00:00"),
    ],
)
def test_a_start_is_a_time_where_the_workspace_is(written: str, moment: str) -> None:
    assert slots.start_of(written, LONDON) == datetime.fromisoformat(moment)


@pytest.mark.parametrize(
    ("written", "says"),
    [
        ("", "start is empty: write a time such as 2026-12-01T09:00"),
        ("nine", 'start "nine" isn\'t a time: write it as 2026-12-01T09:00'),
        ("2026-12-01", "isn't a time"),
        ("2026-12-01T25:00", "isn't a time"),
        ("2026-02-30T09:00", "isn't a time"),
        ("12/25/2026 09:00", "isn't a time"),
        ("2026-12-01T09:00+25:00", "isn't a time"),
        ("01/07/26 09:00", "isn't a time"),
        ("2026-12-01T09:00:30", "isn't a time"),
        ("0000-12-01T09:00", "isn't a time"),
        ("0001-01-01T00:00+14:00", "isn't a time"),
        ("٢٠٢٦-12-01T09:00", "isn't a time"),
        (
            "2026-10-25T01:30",
            "comes twice, as the clocks go back: write which one, 2026-10-25T01:30+01:00 or 2026-10-25T01:30+00:00",
        ),
        ("2026-10-25T01:00", "comes twice"),
        ("25/10/2026 01:59", "comes twice"),
        ("2027-03-28T01:30", "there is no such time, as the clocks go forward"),
    ],
)
def test_what_is_no_time_is_refused_and_nothing_is_guessed(written: str, says: str) -> None:
    with pytest.raises(NotASlot) as refused:
        slots.start_of(written, LONDON)
    assert says in str(refused.value)


@given(st.datetimes(min_value=datetime(2000, 1, 1), max_value=datetime(2037, 1, 1)))  # noqa: DTZ001
def test_a_time_is_the_moment_at_which_the_clocks_show_it_and_no_other_moment_is(local: datetime) -> None:
    local = local.replace(second=0, microsecond=0)
    hour = timedelta(hours=1)
    moments = [local.replace(tzinfo=UTC) - offset for offset in (timedelta(0), hour)]
    showing = [each for each in moments if each.astimezone(LONDON).replace(tzinfo=None) == local]
    try:
        assert [slots.in_zone(local, LONDON)] == showing
    except NotASlot:
        assert len(showing) != 1


WRITTEN = {"id": "A", "start": "2026-12-01T09:00", "minutes": "10"}


def test_a_line_is_a_slot() -> None:
    said = {"clinician": "  Nurse\u00a0Brown ", "place": "-", "capacity": "12"}
    slot = slots.read_slot(WRITTEN | said, LONDON, 7)
    assert slot == Slot("A", datetime(2026, 12, 1, 9, tzinfo=UTC), 10, "Nurse Brown", None, 12)
    assert (slot.line, slot.ends_at) == (7, datetime(2026, 12, 1, 9, 10, tzinfo=UTC))
    assert slots.read_slot(WRITTEN, LONDON, 7).capacity == 1


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"id": " "}, "id is empty: give each slot a name of its own"),
        ({"id": "x" * 201}, "id has over 200 characters"),
        ({"id": "a\x07b"}, "id has over 200 characters, or some that nobody can read"),
        ({"place": "x" * 201}, "place has over 200 characters"),
        ({"minutes": ""}, "minutes is empty: write a whole number from 1 to 1,440"),
        ({"minutes": "0"}, 'minutes is "0": write a whole number'),
        ({"minutes": "1441"}, "from 1 to 1,440"),
        ({"minutes": "7.5"}, "whole number"),
        ({"capacity": "0"}, 'capacity is "0": write a whole number from 1 to 10,000'),
        ({"capacity": "-3"}, "whole number"),
        ({"capacity": "10001"}, "from 1 to 10,000"),
        ({"capacity": "9" * 60}, "from 1 to 10,000"),
        ({"capacity": "two"}, "whole number"),
    ],
)
def test_a_line_that_is_no_slot_says_why(changed: dict[str, str], says: str) -> None:
    with pytest.raises(NotASlot) as refused:
        slots.read_slot(WRITTEN | changed, LONDON, 7)
    assert says in str(refused.value)


def known(slot: Slot, booked: int = 0, *, ever: bool | None = None, removed: bool = False) -> Known:
    return Known(slot, booked, bool(booked) if ever is None else ever, removed)


LONG_AGO = replace(A, starts_at=NOW - timedelta(days=1))


@pytest.mark.parametrize(
    ("found", "before", "says"),
    [
        ([A, B], {}, []),
        ([A, replace(B, id="A")], {}, ['the id "A" stands on line 2 already']),
        ([LONG_AGO], {}, ['slot "A" has begun already: correct its start']),
        ([replace(A, starts_at=NOW)], {}, ["has begun already"]),
        ([LONG_AGO], {"A": known(LONG_AGO)}, []),
        ([LONG_AGO], {"A": known(A)}, ["has begun already"]),
        ([replace(A, capacity=1)], {"A": known(A, 2)}, []),
        ([replace(A, place="Room 4")], {"A": known(A)}, []),
        ([replace(A, place="Room 4")], {"A": known(A, 1)}, ["which patients were told"]),
        ([replace(A, minutes=5)], {"A": known(A, ever=True)}, ["which patients were told"]),
    ],
)
def test_what_of_a_file_can_not_be_taken_in(found: list[Slot], before: dict[str, Known], says: list[str]) -> None:
    faults = [why for _, why in slots.faults(found, before, NOW)]
    assert len(faults) == len(says)
    assert all(said in why for said, why in zip(says, faults, strict=True))


NOTHING = Changes((), (), (), ())


@pytest.mark.parametrize(
    ("found", "before", "changed"),
    [
        ([], {}, NOTHING),
        ([A], {}, replace(NOTHING, new=(A,))),
        ([A], {"A": known(A, 1)}, NOTHING),
        ([A], {"A": known(replace(A, capacity=1))}, replace(NOTHING, altered=(A,))),
        ([A], {"A": known(A, removed=True)}, replace(NOTHING, altered=(A,))),
        ([], {"A": known(A)}, replace(NOTHING, removed=("A",))),
        ([], {"A": known(A, 2)}, replace(NOTHING, removed=("A",), keep_bookings=(("A", 0, 2),))),
        ([], {"A": known(LONG_AGO, 2)}, replace(NOTHING, removed=("A",))),  # they have been seen
        (
            [replace(LONG_AGO, capacity=1)],
            {"A": known(LONG_AGO, 2)},
            replace(NOTHING, altered=(replace(LONG_AGO, capacity=1),)),
        ),
        ([], {"A": known(A, 2, removed=True)}, NOTHING),
        ([A], {"A": known(replace(A, capacity=5), 3)}, replace(NOTHING, altered=(A,), keep_bookings=(("A", 2, 3),))),
    ],
)
def test_what_a_file_changes(found: list[Slot], before: dict[str, Known], changed: Changes) -> None:
    assert slots.changes({each.id: each for each in found}, before, NOW) == changed
