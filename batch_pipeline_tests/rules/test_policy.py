from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from batch_pipeline.rules.policy import (
    FALLBACK_POLICIES,
    FallbackPolicy,
    fallback_window,
    likely_to_fail_since,
    repeat_since,
    sms_timeout_cutoff,
    snapshot_state,
)

LONDON = ZoneInfo("Europe/London")
NOON = datetime(2026, 10, 1, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("channel", "questionnaire", "hours"),
    [
        ("nhs_app", None, 24),
        ("nhs_app", "asthma", 24),
        ("nhs_app", "bp_4_day", 3),
        ("nhs_app", "bp_7_day", 3),
        ("email", "bp_7_day", None),
        ("sms", None, None),
    ],
)
def test_the_window_is_24_hours_and_3_for_the_bp_questionnaires_and_only_for_the_app(
    channel: str, questionnaire: str | None, hours: int | None
) -> None:
    found = fallback_window(channel, questionnaire, NOON)
    assert (found and found[1]) == (hours and timedelta(hours=hours))


def test_a_later_row_counts_from_its_date_on_and_not_a_microsecond_earlier() -> None:
    change = FallbackPolicy("unread-12h", NOON, None, timedelta(hours=12))
    policies = (change, *FALLBACK_POLICIES)
    assert fallback_window("nhs_app", None, NOON - timedelta(microseconds=1), policies) == (
        "unread-24h",
        timedelta(days=1),
    )
    assert fallback_window("nhs_app", None, NOON, policies) == ("unread-12h", timedelta(hours=12))
    assert fallback_window("nhs_app", "bp_7_day", NOON, policies) == ("bp-3h", timedelta(hours=3))


def test_before_every_row_there_is_no_policy() -> None:
    with pytest.raises(LookupError, match="1999-12-31"):
        fallback_window("nhs_app", None, datetime(1999, 12, 31, tzinfo=UTC))


def test_policy_ids_are_unique() -> None:
    assert len({policy.id for policy in FALLBACK_POLICIES}) == len(FALLBACK_POLICIES)


@pytest.mark.parametrize("provider", ["simulator", "govuk_notify"])
def test_an_sms_times_out_after_72_hours_of_a_provider_that_is_always_open(provider: str) -> None:
    assert sms_timeout_cutoff(provider, NOON) == NOON - timedelta(hours=72)


def test_the_hours_of_an_unknown_provider_are_no_guess() -> None:
    with pytest.raises(LookupError, match="pigeon"):
        sms_timeout_cutoff("pigeon", NOON)


@pytest.mark.parametrize(
    ("now", "cutoff"),
    [
        # 72 hours are seven days of ten hours, and two hours.
        ("2026-10-01T12:00+01:00", "2026-09-22T10:00+01:00"),
        ("2026-10-01T18:00+01:00", "2026-09-22T16:00+01:00"),
        ("2026-10-01T23:30+01:00", "2026-09-22T16:00+01:00"),
        ("2026-10-02T07:59+01:00", "2026-09-22T16:00+01:00"),
        ("2026-10-01T09:00+01:00", "2026-09-21T17:00+01:00"),
        ("2026-10-01T10:00+01:00", "2026-09-22T08:00+01:00"),
        # At a weekend as on Friday evening.
        ("2026-10-03T12:00+01:00", "2026-09-23T16:00+01:00"),
        ("2026-10-05T07:00+01:00", "2026-09-23T16:00+01:00"),
        # Over both changes of the clock: the hours are those of London's clocks.
        ("2026-10-27T12:00+00:00", "2026-10-16T10:00+01:00"),
        ("2026-03-31T12:00+01:00", "2026-03-20T10:00+00:00"),
    ],
)
def test_at_nhs_notify_the_72_hours_are_those_of_weekdays_from_8_to_18(now: str, cutoff: str) -> None:
    assert sms_timeout_cutoff("nhs_notify", datetime.fromisoformat(now)) == datetime.fromisoformat(cutoff)


@pytest.mark.parametrize(
    ("as_of", "state"),
    [
        # By the calendar of the workspace: NOON is 1 October, 13:00 in London.
        (date(2026, 10, 1), "current"),
        (date(2026, 9, 29), "current"),
        (date(2026, 9, 28), "old"),
        (date(2026, 9, 24), "old"),
        (date(2026, 9, 23), "unknown"),
        (date(2026, 10, 2), "current"),
        # By the clock.
        (NOON - timedelta(days=2), "current"),
        (NOON - timedelta(days=2, microseconds=1), "old"),
        (NOON - timedelta(days=7), "old"),
        (NOON - timedelta(days=7, microseconds=1), "unknown"),
        # Without a zone it is workspace time: 13:00 in London is NOON.
        (datetime(2026, 9, 29, 13), "current"),  # noqa: DTZ001
        (datetime(2026, 9, 29, 12, 59), "old"),  # noqa: DTZ001
    ],
)
def test_a_snapshot_is_old_after_two_days_and_unknown_after_seven(as_of: date | datetime, state: str) -> None:
    assert snapshot_state(as_of, NOON, LONDON) == state


def test_the_day_of_a_snapshot_is_counted_in_the_workspace_s_zone() -> None:
    late = datetime(2026, 7, 3, 23, 30, tzinfo=UTC)  # 4 July, 00:30 in London
    assert snapshot_state(date(2026, 7, 1), late, LONDON) == "old"
    assert snapshot_state(date(2026, 7, 1), late, UTC) == "current"


@pytest.mark.parametrize(
    ("now", "since"),
    [
        (datetime(2026, 8, 15, 9, tzinfo=LONDON), datetime(2026, 5, 15, 9, tzinfo=LONDON)),
        (datetime(2026, 5, 31, 9, tzinfo=LONDON), datetime(2026, 2, 28, 9, tzinfo=LONDON)),
        (datetime(2028, 5, 31, 9, tzinfo=LONDON), datetime(2028, 2, 29, 9, tzinfo=LONDON)),
        (datetime(2026, 1, 1, 9, tzinfo=LONDON), datetime(2025, 10, 1, 9, tzinfo=LONDON)),
        (datetime(2026, 3, 31, 9, tzinfo=LONDON), datetime(2025, 12, 31, 9, tzinfo=LONDON)),
    ],
)
def test_likely_to_fail_looks_back_three_calendar_months(now: datetime, since: datetime) -> None:
    assert likely_to_fail_since(now.astimezone(UTC), LONDON) == since


def test_a_repeat_is_one_within_30_days() -> None:
    assert NOON - repeat_since(NOON) == timedelta(days=30)
