"""What a record says of a patient: death, secrecy, removal, and which of its details hold."""

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from batch_pipeline.rules.demographics import Details, Period, Record, Telecom, judge

NOW = datetime(2026, 10, 1, 9, tzinfo=UTC)
ASKED = "9990000018"
OTHER = "9990000026"
MOBILE = Telecom("phone", "mobile", "07700 900001")
EMAIL = Telecom("email", "home", "ash@example.org")
RECORD = Record(ASKED, ("U",), telecoms=(MOBILE, EMAIL))


def judged(**known: object) -> Details:
    return judge(ASKED, replace(RECORD, **known), NOW)


def test_details_of_a_record() -> None:
    assert judged() == Details("found", None, "+447700900001", "ash@example.org")


@pytest.mark.parametrize(
    "said",
    [
        *({"died": died} for died in ("2020", "2020-01", "2020-01-31", "2020-01-31T09:00:00+00:00", "", "odd")),
        {"death_notices": ("1",)},
        {"death_notices": ("2",)},
        {"death_notices": ("U", "2")},
        {"death_notices": ("unheard of",)},
    ],
)
def test_the_dead(said: dict[str, object]) -> None:
    assert judged(**said) == Details("deceased")


@pytest.mark.parametrize(
    ("said", "outcome"),
    [
        ({"death_notices": ("U",)}, "found"),
        ({"security": ()}, "found"),
        ({"security": ("R",)}, "restricted"),
        ({"security": ("V",)}, "restricted"),
        ({"security": ("U", "R")}, "restricted"),
        ({"removals": (Period(),)}, "exit_coded"),
        ({"removals": (Period("2026-10-01"),)}, "exit_coded"),
        ({"removals": (Period("2026-10-02"),)}, "found"),
        ({"removals": (Period("2020-01-01", "2026-09-30"),)}, "found"),
        ({"removals": (Period("odd"),)}, "exit_coded"),
        # of several the gravest
        ({"death_notices": ("2",), "security": ("R",), "removals": (Period(),)}, "deceased"),
        ({"security": ("R",), "removals": (Period(),)}, "restricted"),
    ],
)
def test_what_stands_in_the_way(said: dict[str, object], outcome: str) -> None:
    found = judged(**said)
    assert found.outcome == outcome
    assert (found.mobile is not None) == (outcome == "found")


@pytest.mark.parametrize("said", [{}, {"died": "2020"}, {"security": ("R",)}, {"removals": (Period(),)}])
def test_a_superseded_number_is_told_whatever_else_is(said: dict[str, object]) -> None:
    assert judged(nhs_number=OTHER, **said).current_number == OTHER
    assert judged(**said).current_number is None


@pytest.mark.parametrize(
    ("start", "end", "holds"),
    [
        (None, None, True),
        ("2026", None, True),
        ("2027", None, False),
        ("2026-10", None, True),
        ("2026-11", None, False),
        ("2026-10-01", "2026-10-01", True),
        ("2026-10-02", None, False),
        ("2026-10-01T08:59:59Z", "2026-10-01T09:00:01Z", True),
        ("2026-10-01T10:00:01+01:00", None, False),
        (None, "2026", True),
        (None, "2025", False),
        (None, "2026-10", True),
        (None, "2026-09", False),
        (None, "2026-09-30", False),
        (None, "2026-10-01T08:59:59+00:00", False),
        ("2026-13", None, False),
        ("yesterday", None, False),
        (None, "0000", False),
        (None, "2026-02-30", False),
    ],
)
def test_a_detail_whose_period_has_ended_or_not_begun_is_none(start: str | None, end: str | None, holds: bool) -> None:
    found = judged(telecoms=(replace(MOBILE, period=Period(start, end)),))
    assert found.mobile == ("+447700900001" if holds else None)


def test_a_day_ends_at_midnight_in_london() -> None:
    last_evening = replace(RECORD, telecoms=(replace(MOBILE, period=Period(None, "2026-09-30")),))
    assert judge(ASKED, last_evening, datetime(2026, 9, 30, 22, 59, tzinfo=UTC)).mobile
    assert not judge(ASKED, last_evening, datetime(2026, 9, 30, 23, 0, tzinfo=UTC)).mobile


@pytest.mark.parametrize(
    ("telecoms", "mobile", "email"),
    [
        ([], None, None),
        ([Telecom("phone", "home", "07700 900001")], None, None),
        ([Telecom("phone", None, "07700 900001")], None, None),
        ([Telecom("sms", "mobile", "07700 900001")], None, None),
        ([Telecom("phone", "mobile", "020 7946 0018")], None, None),
        ([Telecom("phone", "mobile", None)], None, None),
        ([Telecom("phone", "mobile", "01632 960001"), MOBILE], "+447700900001", None),
        # the one that began last
        (
            [
                Telecom("phone", "mobile", "07700 900002", Period("2020-01-01")),
                Telecom("phone", "mobile", "07700 900003", Period("2024")),
                MOBILE,
            ],
            "+447700900003",
            None,
        ),
        ([MOBILE, Telecom("phone", "mobile", "07700 900002")], "+447700900001", None),
        ([Telecom("email", "old", "ash@example.org")], None, None),
        ([Telecom("email", "work", "ash@example.org")], None, "ash@example.org"),
        ([Telecom("email", "home", "ash at example.org")], None, None),
    ],
)
def test_which_details_are_taken(telecoms: list[Telecom], mobile: str | None, email: str | None) -> None:
    found = judged(telecoms=tuple(telecoms))
    assert (found.mobile, found.email) == (mobile, email)
