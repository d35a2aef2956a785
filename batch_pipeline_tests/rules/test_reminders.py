"""Who is reminded, when, by which path, and in which words."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batch_pipeline.rules import reminders, steps
from batch_pipeline.rules.links import life_of
from batch_pipeline.rules.policy import REMINDER_POLICIES, ReminderPolicy, reminder_policy
from batch_pipeline.rules.reminders import PatientFacts, against, next_day, reached_by

NOW = datetime(2026, 10, 7, 9, tzinfo=UTC)
HOUR, DAY = timedelta(hours=1), timedelta(days=1)
TEXTED = PatientFacts(
    channel="sms",
    primary="delivered",
    fallback=None,
    fallback_begun_at=None,
    reminded_at=None,
    completed=False,
    changed_at=None,
    link_revoked=False,
    link_locked=False,
    link_ends_at=NOW + 4 * DAY,
)
TWICE, DAILY = (reminder_policy(each, NOW) for each in ("smoking", "bp_7_day"))

# When ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("questionnaire", "days"),
    [
        (None, None),
        ("smoking", (3, 6)),
        ("bmi", (3, 6)),
        ("bp_4_day", (1, 2, 3, 4, 5)),
        ("bp_7_day", tuple(range(1, 9))),
    ],
)
def test_day_3_and_6_and_blood_pressure_daily(questionnaire: str | None, days: tuple[int, ...] | None) -> None:
    policy = reminder_policy(questionnaire, NOW)
    assert (None if policy is None else policy.days) == days


def test_every_reminder_is_due_while_its_link_lives() -> None:
    for policy in REMINDER_POLICIES:
        for questionnaire in policy.questionnaires or ["another"]:
            assert policy.days[-1] * DAY + reminders.LATEST < life_of("questionnaire", questionnaire).in_all
            assert list(policy.days) == sorted(set(policy.days))
            assert all(steps.reminder_of(day) in steps.REMINDERS for day in policy.days)


def test_the_latest_policy_that_is_in_force_counts() -> None:
    later = ReminderPolicy("later", NOW, None, (2,), daily=False)
    policies = (*REMINDER_POLICIES, later)
    chosen = [reminder_policy("smoking", at, policies) for at in (NOW - HOUR, NOW)]
    assert [each.id for each in chosen if each is not None] == ["days-3-and-6", "later"]
    with pytest.raises(LookupError):
        reminder_policy("smoking", NOW - HOUR, [later])


def test_the_next_day_is_the_policys() -> None:
    assert TWICE is not None
    assert DAILY is not None
    assert [next_day(TWICE, day) for day in (1, 3, 5, 6)] == [3, 6, 6, None]
    assert [next_day(DAILY, day) for day in (1, 7, 8)] == [2, 8, None]


# Who -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("channel", "primary", "fallback", "path"),
    [
        ("email", "accepted", None, "email"),
        ("email", "failed", None, None),
        ("sms", "delivered", None, "sms"),
        ("sms", "accepted", None, "sms"),
        ("sms", "timed_out", None, "sms"),
        ("sms", "unconfirmed", None, None),
        ("sms", "cancelled", None, None),
        ("nhs_app", "read", None, "nhs_app"),
        ("nhs_app", "delivered", None, "nhs_app"),
        ("nhs_app", "accepted", "delivered", "sms"),
        ("nhs_app", "failed", "accepted", "sms"),
        ("nhs_app", "failed", "failed", None),
        ("nhs_app", "delivered", "failed", "nhs_app"),
        ("nhs_app", "delivered", "cancelled", "nhs_app"),
        ("nhs_app", "read", "delivered", "nhs_app"),
    ],
)
def test_the_path_is_the_one_that_reached_the_patient(
    channel: str, primary: str, fallback: str | None, path: str | None
) -> None:
    assert reached_by(replace(TEXTED, channel=channel, primary=primary, fallback=fallback)) == path


CASES: list[tuple[dict[str, Any], bool, timedelta, str | None]] = [
    # what is known, of a daily one?, how late, why not
    ({}, False, 0 * HOUR, None),
    ({}, True, 0 * HOUR, None),
    ({}, False, 12 * HOUR, None),
    ({}, False, 12 * HOUR + timedelta(seconds=1), "too_late"),
    ({"completed": True}, False, 0 * HOUR, "answered"),
    ({"changed_at": NOW - HOUR}, False, 0 * HOUR, None),
    ({"changed_at": NOW - HOUR}, True, 0 * HOUR, "answered_today"),
    ({"changed_at": NOW - DAY}, True, 0 * HOUR, None),
    ({"changed_at": NOW - DAY}, True, 2 * HOUR, "answered_today"),
    ({"completed": True, "changed_at": NOW}, True, 13 * HOUR, "answered"),
    ({"link_revoked": True}, False, 0 * HOUR, "link_revoked"),
    ({"link_locked": True}, False, 0 * HOUR, "link_locked"),
    ({"link_revoked": True, "link_locked": True}, False, 0 * HOUR, "link_revoked"),
    ({"link_ends_at": NOW + HOUR}, False, 0 * HOUR, None),
    ({"link_ends_at": NOW + HOUR - timedelta(seconds=1)}, False, 0 * HOUR, "link_over"),
    ({"link_ends_at": NOW - DAY}, False, 0 * HOUR, "link_over"),
    ({"primary": "failed"}, False, 0 * HOUR, "not_reached"),
    ({"channel": "nhs_app", "fallback": "queued"}, False, 0 * HOUR, "just_texted"),
    ({"channel": "nhs_app", "fallback": "sending", "fallback_begun_at": NOW}, False, 0 * HOUR, "just_texted"),
    (
        {"channel": "nhs_app", "fallback": "accepted", "fallback_begun_at": NOW - 12 * HOUR + timedelta(seconds=1)},
        False,
        0 * HOUR,
        "just_texted",
    ),
    ({"channel": "nhs_app", "fallback": "accepted", "fallback_begun_at": NOW - 12 * HOUR}, False, 0 * HOUR, None),
    ({"reminded_at": NOW}, False, 0 * HOUR, "just_reminded"),
    ({"reminded_at": NOW - 12 * HOUR + timedelta(seconds=1)}, True, 0 * HOUR, "just_reminded"),
    ({"reminded_at": NOW - 12 * HOUR}, True, 0 * HOUR, None),
]


@pytest.mark.parametrize(("known", "daily", "late", "reason"), CASES)
def test_what_stands_against_a_reminder(
    known: dict[str, Any], *, daily: bool, late: timedelta, reason: str | None
) -> None:
    policy = DAILY if daily else TWICE
    assert policy is not None
    assert against(replace(TEXTED, **known), policy, NOW - late, NOW) == reason
    assert reason is None or reason in reminders.AGAINST


# Words ---------------------------------------------------------------------------------------------------------------


def test_a_word_stands_before_the_message() -> None:
    assert reminders.text_of("sms", "Dear Alex") == "Reminder: Dear Alex"
    assert reminders.text_of("nhs_app", "# Dear Alex") == reminders.text_of("email", "# Dear Alex")
    assert reminders.text_of("email", "# Dear Alex") == "This is a reminder.\n\n# Dear Alex"
    assert reminders.subject_of("Your readings") == "Reminder: Your readings"
    assert reminders.subject_of(None) is None


@given(st.integers(-20, 20))
def test_a_step_names_its_day(day: int) -> None:
    if 1 <= day <= 9:
        assert steps.day_of(steps.reminder_of(day)) == day
        assert steps.label(steps.reminder_of(day)) == f"reminder of day {day}"
    else:
        with pytest.raises(ValueError, match="reminder"):
            steps.reminder_of(day)


def test_other_steps_have_no_day() -> None:
    assert [steps.day_of(step) for step in ("primary", "fallback")] == [None, None]
    assert [steps.label(step) for step in ("primary", "fallback")] == ["first message", "text that followed"]
    many = [steps.labels(step) for step in ("primary", "fallback", "reminder_3")]
    assert many == ["first messages", "texts that followed", "reminders of day 3"]
