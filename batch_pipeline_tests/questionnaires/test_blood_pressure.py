from collections.abc import Mapping
from datetime import date, timedelta
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batch_pipeline.questionnaires import blood_pressure
from batch_pipeline.questionnaires.form import Answers, Value
from batch_pipeline.questionnaires.posting import Posted, read_page
from batch_pipeline.rules.blood_pressure import Average
from batch_pipeline_tests.questionnaires.given import MONDAY, dated, readings, shipped

FORM = shipped("bp_7_day")
DAYS = FORM.pages
SUNDAY = MONDAY - timedelta(days=1)
TUESDAY = MONDAY + timedelta(days=1)
THURSDAY = MONDAY + timedelta(days=3)
WHOLE = {"m1": (150, 95), "m2": (146, 93), "e1": (142, 91), "e2": (138, 89)}


def post(fields: Mapping[str, str], before: Answers | None = None, *, day: int = 1, today: date = MONDAY) -> Posted:
    return read_page(FORM, DAYS[day - 1], fields, before or {}, today)


def week(days: int, *, begins: date = MONDAY) -> dict[str, Value]:
    """The answers of somebody who gave every reading of so many days, each on its day."""
    answers: Answers = {}
    for n in range(days):
        on = begins + timedelta(days=n)
        found = post(readings(DAYS[n], on, **WHOLE), answers, day=n + 1, today=on)
        assert not found.errors
        answers = found.answers
    return dict(answers)


def states(answers: Answers, today: date) -> list[tuple[str, int, date | None]]:
    return [(day.state, day.given, day.on) for day in blood_pressure.days(FORM, answers, today)]


def test_a_week_is_averaged_without_its_first_day() -> None:
    assert blood_pressure.average(FORM, week(1)) is None
    assert blood_pressure.average(FORM, week(4)) == Average(144, 92, readings=12, days=3)
    assert blood_pressure.average(FORM, week(7)) == Average(144, 92, readings=24, days=6)


def test_the_morning_may_be_saved_and_the_evening_added() -> None:
    morning = post(readings(DAYS[0], MONDAY, m1=(150, 95), m2=(146, 93)))
    assert not morning.errors
    assert states(morning.answers, MONDAY)[0] == ("begun", 2, MONDAY)
    both = post(readings(DAYS[0], MONDAY, e1=(142, 91), e2=(138, 89)), morning.answers)
    assert both.answers == week(1)
    assert states(both.answers, MONDAY)[0] == ("done", 4, MONDAY)


PLACES = ("m1", "m2", "e1", "e2")


@given(st.data())
@settings(max_examples=30)
def test_partial_and_continued_is_the_whole(data: st.DataObject) -> None:
    """In whatever parts and order two days are sent, they come to what they would at once."""
    number = st.tuples(st.integers(91, 300), st.integers(20, 90))
    given_days = {day: {place: data.draw(number) for place in PLACES} for day in (1, 2)}
    whole: Answers = {}
    for day, numbers in given_days.items():
        on = MONDAY + timedelta(days=day - 1)
        whole = post(readings(DAYS[day - 1], on, **numbers), whole, day=day, today=THURSDAY).answers
    parts = data.draw(st.permutations([(day, place) for day in given_days for place in PLACES]))
    continued: Answers = {}
    for day, place in parts:
        on = MONDAY + timedelta(days=day - 1)
        fields = readings(DAYS[day - 1], on, **{place: given_days[day][place]})
        found = post(fields, continued, day=day, today=THURSDAY)
        assert not found.errors
        continued = found.answers
    assert continued == whole
    assert blood_pressure.average(FORM, continued) == blood_pressure.average(FORM, whole)
    assert blood_pressure.days(FORM, continued, THURSDAY) == blood_pressure.days(FORM, whole, THURSDAY)


FIRST = "day-1.morning.1"
NAME = "Morning, First reading: "


@pytest.mark.parametrize(
    ("fields", "errors"),
    [
        pytest.param({f"{FIRST}.systolic": "150"},
                     {f"{FIRST}.diastolic": NAME + "Bottom number (diastolic): enter this number as well"}, id="half"),
        pytest.param({f"{FIRST}.diastolic": "95"},
                     {f"{FIRST}.systolic": NAME + "Top number (systolic): enter this number as well"}, id="other half"),
        pytest.param({f"{FIRST}.pulse": "70"},
                     {f"{FIRST}.systolic": NAME + "Top number (systolic): enter this number as well"}, id="pulse alone"),
        pytest.param({f"{FIRST}.systolic": "95", f"{FIRST}.diastolic": "150"},
                     {f"{FIRST}.systolic": NAME + "Top number (systolic) must be higher than the other number. "
                                                  "Check that you have not swapped them"}, id="swapped"),
        pytest.param({f"{FIRST}.systolic": "95", f"{FIRST}.diastolic": "95"},
                     {f"{FIRST}.systolic": NAME + "Top number (systolic) must be higher than the other number. "
                                                  "Check that you have not swapped them"}, id="the same"),
        pytest.param({f"{FIRST}.systolic": "150", f"{FIRST}.diastolic": "nine"},
                     {f"{FIRST}.diastolic": NAME + "Bottom number (diastolic) must be a whole number, in figures"},
                     id="one error a field"),
        pytest.param({}, {}, id="nothing yet"),
    ],
)  # fmt: skip
def test_a_reading_is_two_numbers_the_right_way_round(fields: dict[str, str], errors: dict[str, str]) -> None:
    found = post({**dated("day-1.date", MONDAY), **fields})
    assert found.errors == errors
    assert blood_pressure.average(FORM, found.answers) is None
    assert states(found.answers, MONDAY)[0][1] == 0


@pytest.mark.parametrize(
    ("systolic", "diastolic", "kept"),
    [
        pytest.param("1 5", "85", {"diastolic": 85}, id="the old top number isn't the new bottom one's"),
        pytest.param("135", "8O", {"systolic": 135}, id="nor the old bottom one the new top one's"),
        pytest.param("1 5", "95", {"systolic": 150, "diastolic": 95}, id="a slip alone leaves the reading as it was"),
    ],
)
def test_no_reading_is_made_of_halves_of_two(systolic: str, diastolic: str, kept: dict[str, int]) -> None:
    before = post(readings(DAYS[0], MONDAY, m1=(150, 95))).answers
    found = post(readings(DAYS[0], MONDAY, m1=(systolic, diastolic)), before)
    assert len(found.errors) == 1
    assert {name.rsplit(".", 1)[1]: value for name, value in found.answers.items() if name.startswith(FIRST)} == kept


DATE = "Date of these readings"


@pytest.mark.parametrize(
    ("on", "says"),
    [
        (MONDAY, None),
        (MONDAY - timedelta(days=14), None),
        (MONDAY - timedelta(days=15), f"{DATE} must be within the last 14 days"),
        (TUESDAY, f"{DATE} must be today or in the past"),
        (None, f"{DATE}: enter the date of these readings"),
    ],
)
def test_readings_have_a_date_that_can_be_theirs(on: date | None, says: str | None) -> None:
    found = post(readings(DAYS[0], on, **WHOLE))
    assert dict(found.errors) == ({} if says is None else {"day-1.date:day": says})
    assert ("day-1.date" in found.answers) == (says is None), "a wrong date would make them another day's"
    assert found.answers["day-1.morning.1.systolic"] == 150, "the readings are kept all the same"


def test_two_days_cannot_have_one_date() -> None:
    monday = week(1)
    found = post(readings(DAYS[1], MONDAY, **WHOLE), monday, day=2)
    assert found.errors == {"day-2.date:day": f"{DATE}: Day 1 has the same date. Give each day its own date"}
    mended = post(dated("day-2.date", TUESDAY), found.answers, day=2, today=TUESDAY)
    assert mended.answers == week(2)


def test_a_wrong_date_later_leaves_the_right_one() -> None:
    found = post(dated("day-1.date", TUESDAY), week(1))
    assert found.errors
    assert found.answers == week(1)


@pytest.mark.parametrize("parts", ["with the readings again", "with the readings alone"])
@pytest.mark.parametrize(("on", "says"), [(TUESDAY, "must be today or in the past"), (SUNDAY, "has the same date")])
def test_a_date_that_came_before_the_readings_is_taken_for_theirs_only_if_it_can_be(
    on: date, says: str, parts: str
) -> None:
    """Day 2 is saved with its date alone, and Day 1 is given that date with its readings; or the date is to come."""
    before = post(dated("day-2.date", on), day=2).answers
    if on == SUNDAY:
        before = post(readings(DAYS[0], SUNDAY, **WHOLE), before).answers
    found = post(readings(DAYS[1], on if "again" in parts else None, m1=(150, 95)), before, day=2)
    assert says in found.errors["day-2.date:day"]
    assert "day-2.date" not in found.answers, "the readings would be another day's"
    assert found.answers["day-2.morning.1.systolic"] == 150
    mended = post(dated("day-2.date", MONDAY), found.answers, day=2)
    assert not mended.errors
    assert mended.answers["day-2.date"] == MONDAY


def test_a_date_that_has_grown_old_since_it_was_given_stays() -> None:
    """Fourteen days back when it was given; a link may live nine days more."""
    answers = post(readings(DAYS[0], MONDAY, m1=(150, 95)), today=MONDAY + timedelta(days=14)).answers
    again = post(readings(DAYS[0], MONDAY, e1=(150, 95)), answers, today=MONDAY + timedelta(days=17))
    assert not again.errors
    assert again.answers["day-1.date"] == MONDAY
    other = post(dated("day-1.date", TUESDAY), answers, today=MONDAY + timedelta(days=17))
    assert "within the last 14 days" in other.errors["day-1.date:day"]
    assert other.answers["day-1.date"] == MONDAY


def test_a_page_with_a_date_and_nothing_else_is_no_day_of_readings() -> None:
    found = post(dated("day-1.date", MONDAY))
    assert not found.errors
    assert states(found.answers, MONDAY)[0] == ("open", 0, MONDAY)


@pytest.mark.parametrize(
    ("done", "today", "expected"),
    [
        pytest.param(0, 0, ["open 0", "later 1", "later 2"], id="nothing yet"),
        pytest.param(1, 0, ["done 0", "later 1", "later 2"], id="the next day begins tomorrow"),
        pytest.param(1, 1, ["done 0", "open 1", "later 2"], id="the next day"),
        pytest.param(1, 4, ["done 0", "open 4", "later 5"], id="days that were left out are no pages left out"),
        pytest.param(2, 2, ["done 0", "done 1", "open 2"], id="the third day"),
    ],
)
def test_one_day_is_open_at_a_time(done: int, today: int, expected: list[str]) -> None:
    found = states(week(done), MONDAY + timedelta(days=today))[:3]
    assert [f"{state} {(on - MONDAY).days}" for state, _, on in found if on] == expected


def test_who_writes_three_days_down_at_once_can() -> None:
    answers: Answers = {}
    for n in range(3):
        [open_day] = [day for day in blood_pressure.days(FORM, answers, THURSDAY) if day.state == "open"]
        assert open_day.page.link_id == f"day-{n + 1}"
        on = MONDAY + timedelta(days=n)
        answers = post(readings(open_day.page, on, **WHOLE), answers, day=n + 1, today=THURSDAY).answers
    assert answers == week(3)


@pytest.mark.parametrize(
    ("fields", "codes"),
    [
        pytest.param(
            readings(DAYS[0], MONDAY, m1=(185, 95), e1=(140, 90)), ["very_high"], id="of the first day, at once"
        ),
        pytest.param(readings(DAYS[0], None, m1=(185, 95)), ["very_high"], id="without its date yet"),
        pytest.param({f"{FIRST}.systolic": "185"}, ["very_high"], id="without its other number yet"),
        pytest.param(readings(DAYS[0], MONDAY, m1=(95, 185)), ["very_high"], id="with the numbers swapped"),
        pytest.param(readings(DAYS[0], MONDAY, m1=(185, 95), m2=("x", 90)), ["very_high"], id="beside a slip"),
        pytest.param(readings(DAYS[0], MONDAY, m1=(250, 140)), ["very_high"], id="that is unusual as well"),
        pytest.param(readings(DAYS[0], MONDAY, m1=(185, 95), m2=(182, 121)), ["very_high"] * 2, id="each by itself"),
        pytest.param(readings(DAYS[0], MONDAY, m1=(85, 55)), ["low"], id="low"),
        pytest.param(readings(DAYS[0], MONDAY, **WHOLE), [], id="nothing"),
    ],
)
def test_a_reading_that_cannot_wait_is_noticed_whatever_else_is_on_the_page(
    fields: dict[str, str], codes: list[str]
) -> None:
    found = blood_pressure.noticed(FORM, post(fields).answers, MONDAY)
    assert [each.band.code for each in found] == codes


def test_another_questionnaire_has_no_readings() -> None:
    other = shipped("smoking_status")
    answers: Answers = {"smoking.status": ("77176002",)}
    assert blood_pressure.places(other) == ()
    assert blood_pressure.days(other, answers, MONDAY) == ()
    assert blood_pressure.average(other, answers) is None
    assert blood_pressure.noticed(other, answers, MONDAY) == ()


# Held against NICE's words, by other means ---------------------------------------------------------------------------

NUMBERS = st.one_of(
    st.sampled_from([0, 39, 40, 59, 60, 89, 90, 119, 120, 179, 180, 200, 201, 300, 301]), st.integers(60, 190)
)
POSTS = st.tuples(
    st.integers(1, 2),
    st.sampled_from([None, None, -16, -2, -1, 0, 0, 1]),
    st.one_of(st.just({}), st.dictionaries(st.sampled_from(PLACES), st.tuples(NUMBERS, NUMBERS), max_size=4)),
)


def pairs(answers: Answers) -> list[tuple[date, int, int]]:
    """Straight from the answers' names: no form, no places."""
    found: list[tuple[date, int, int]] = []
    for name, systolic in answers.items():
        if name.endswith(".systolic"):
            on, diastolic = answers.get(f"{name[:5]}.date"), answers.get(name.replace("systolic", "diastolic"))
            if isinstance(on, date) and isinstance(systolic, int) and isinstance(diastolic, int):
                found.append((on, systolic, diastolic))
    return [each for each in found if each[1] > each[2]]


@settings(max_examples=70, deadline=None)
@given(st.lists(POSTS, min_size=2, max_size=7))
def test_whatever_is_posted_in_whatever_order(posts: list[tuple[int, int | None, dict[str, tuple[int, int]]]]) -> None:
    """No number that can be one is lost; none is another day's; the average is NICE's; nothing at 180/120 goes unsaid."""
    answers, numbers, dates = dict[str, Value](), dict[str, int](), dict[str, set[date]]()
    for n, (day, offset, given_now) in enumerate(posts):
        today = MONDAY + timedelta(days=n // 3)
        on = None if offset is None else today + timedelta(days=offset)
        fields = readings(DAYS[day - 1], on, **given_now)
        found = post(fields, answers, day=day, today=today)
        answers = dict(found.answers)
        for name in [name for name in fields if name.endswith(".systolic")]:
            both = (name, name.replace("systolic", "diastolic"))
            right = [(each, int(fields[each])) for each, least, most in zip(both, (40, 20), (300, 200), strict=True)
                     if least <= int(fields[each]) <= most]  # fmt: skip
            if len(right) == 1 and numbers.get(right[0][0]) != right[0][1]:
                numbers = {each: number for each, number in numbers.items() if each not in both}
            numbers |= dict(right)
        if on is not None:
            dates.setdefault(f"day-{day}", set()).add(on)

        assert {name: value for name, value in answers.items() if not name.endswith(".date")} == numbers
        by_page = {name.split(".")[0]: value for name, value in answers.items() if name.endswith(".date")}
        with_readings = [by_page[page] for page in by_page if any(name.startswith(page) for name in numbers)]
        assert len(set(with_readings)) == len(with_readings), "two days with one date"
        assert all(isinstance(on, date) and on <= today for on in with_readings)
        assert all(by_page[page] in dates[page] for page in by_page)

        taken = pairs(answers)
        first = min((on for on, _, _ in taken), default=None)
        rest = [each for each in taken if each[0] != first]
        average = blood_pressure.average(FORM, answers)
        assert (average is None) == (not rest)
        if average is not None:
            systolics, diastolics = [each[1] for each in rest], [each[2] for each in rest]
            for got, counted in ((average.systolic, systolics), (average.diastolic, diastolics)):
                exact = Fraction(sum(counted), len(rest))
                assert Fraction(-1, 2) <= exact - got < Fraction(1, 2)
            assert average.valid == (len(rest) >= 12 and len({on for on, _, _ in rest}) >= 3)

        noticed = blood_pressure.noticed(FORM, answers, today)
        urgent = {each.given.place.link_id for each in noticed if each.band.urgent}
        assert urgent == {
            name.rsplit(".", 1)[0]
            for name, number in numbers.items()
            if number >= (180 if name.endswith("systolic") else 120)
        }
