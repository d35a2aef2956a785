"""How long things may take: fallbacks, reminders, time-outs and ages, as data with their dates (SPEC 2.3-2.5, 2.8, 2.9).

Every window is elapsed time, so a clock change neither shortens nor lengthens it. Only what a person counts in days
or months of the calendar (a snapshot's date, "the past 3 calendar months") is counted in the workspace's zone.
"""

from calendar import monthrange
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta, tzinfo
from types import MappingProxyType
from typing import Literal, TypeVar
from zoneinfo import ZoneInfo

SnapshotState = Literal["current", "old", "unknown"]


@dataclass(frozen=True, slots=True)
class FallbackPolicy:
    """From when on, for which questionnaires, and how long after its acceptance an unread App message falls back."""

    id: str
    """Stamped on each attempt when it is queued; an id never changes its meaning."""
    effective_from: datetime
    questionnaires: frozenset[str] | None
    """Questionnaire ids it is for; None: every message that no other row is for."""
    window: timedelta


_SINCE_THE_START = datetime(2000, 1, 1, tzinfo=UTC)

FALLBACK_POLICIES: Sequence[FallbackPolicy] = (
    FallbackPolicy("bp-3h", _SINCE_THE_START, frozenset({"bp_4_day", "bp_7_day"}), timedelta(hours=3)),
    FallbackPolicy("unread-24h", _SINCE_THE_START, None, timedelta(hours=24)),
)
"""To change a window add a row with a later date; never edit or take away one that attempts carry."""

FALLBACK_CHANNELS = frozenset({"nhs_app"})
"""Email and SMS have no fallback (SPEC 2.9)."""


def fallback_window(
    channel: str, questionnaire: str | None, on: datetime, policies: Sequence[FallbackPolicy] = FALLBACK_POLICIES
) -> tuple[str, timedelta] | None:
    """``(policy id, time from acceptance)`` for a message queued ``on`` (aware); None for a channel without fallback.

    A row for the questionnaire goes before the rows for all; of those in force, the one with the latest date counts.
    ``LookupError`` when no row is in force on that day.
    """
    if channel not in FALLBACK_CHANNELS:
        return None
    policy = _in_force(policies, questionnaire, on)
    return policy.id, policy.window


_Policy = TypeVar("_Policy", FallbackPolicy, "ReminderPolicy")


def _in_force(policies: Sequence[_Policy], questionnaire: str | None, on: datetime) -> _Policy:
    in_force = [policy for policy in policies if policy.effective_from <= on]
    for_all = [policy for policy in in_force if policy.questionnaires is None]
    own = [policy for policy in in_force if policy.questionnaires and questionnaire in policy.questionnaires]
    if not (own or for_all):
        raise LookupError(f"no policy is in force on {on:%Y-%m-%d}")
    return max(own or for_all, key=lambda candidate: candidate.effective_from)


@dataclass(frozen=True, slots=True)
class ReminderPolicy:
    """From when on, for which questionnaires, and on which days after the message who hasn't answered is reminded."""

    id: str
    """Stamped on each reminder when it is queued; an id never changes its meaning."""
    effective_from: datetime
    questionnaires: frozenset[str] | None
    """Questionnaire ids it is for; None: every one that no other row is for."""
    days: tuple[int, ...]
    """Each so many times 24 hours after the message was accepted, and none after the link's life (``rules.links``)."""
    daily: bool
    """Answers are asked for every day: who gave some since the reminder before isn't reminded."""


REMINDER_POLICIES: Sequence[ReminderPolicy] = (
    ReminderPolicy("bp-4-daily", _SINCE_THE_START, frozenset({"bp_4_day"}), (1, 2, 3, 4, 5), daily=True),
    ReminderPolicy("bp-7-daily", _SINCE_THE_START, frozenset({"bp_7_day"}), (1, 2, 3, 4, 5, 6, 7, 8), daily=True),
    ReminderPolicy("days-3-and-6", _SINCE_THE_START, None, (3, 6), daily=False),
)
"""As ``FALLBACK_POLICIES``: to change one add a row with a later date."""


def reminder_policy(
    questionnaire: str | None, on: datetime, policies: Sequence[ReminderPolicy] = REMINDER_POLICIES
) -> ReminderPolicy | None:
    """When those are reminded whose message was queued ``on`` (aware); None for one that asks nothing.

    Of the rows the one is taken that ``fallback_window`` would take. ``LookupError`` when none is in force on that day.
    """
    return None if questionnaire is None else _in_force(policies, questionnaire, on)


SMS_TIMEOUT = timedelta(hours=72)
"""Of the provider's sending hours without any receipt: the SMS has timed out (SPEC 2.8)."""


@dataclass(frozen=True, slots=True)
class SendingHours:
    """When a provider hands on what it has accepted: from ``opens`` to ``closes`` in ``zone``, on some days of the week."""

    weekdays: frozenset[int]
    """Monday is 0."""
    opens: time
    closes: time
    zone: tzinfo

    def before(self, now: datetime, span: timedelta) -> datetime:
        """The latest instant from which to ``now`` (aware) these hours come to ``span``; aware, UTC."""
        left, day = span, now.astimezone(self.zone).date()
        while True:
            if day.weekday() in self.weekdays:
                opens, closes = (
                    datetime.combine(day, hour, self.zone).astimezone(UTC) for hour in (self.opens, self.closes)
                )
                end = min(closes, now.astimezone(UTC))
                if end - opens >= left:
                    return end - left
                left -= max(end - opens, timedelta(0))
            day -= timedelta(days=1)


_WEEKDAYS = frozenset(range(5))
SENDING_HOURS: Mapping[str, SendingHours | None] = MappingProxyType(
    {
        "simulator": None,
        "govuk_notify": None,
        "nhs_notify": SendingHours(_WEEKDAYS, time(8), time(18), ZoneInfo("Europe/London")),
    }
)
"""Of the providers of SMS; none: every hour of every day (PROVIDERS 1)."""


def sms_timeout_cutoff(provider: str, now: datetime) -> datetime:
    """An SMS that ``provider`` accepted at or before this instant, and told nothing of since, has timed out at ``now``.

    ``LookupError`` for a provider whose sending hours aren't known: 72 hours by the clock would be a guess.
    """
    try:
        hours = SENDING_HOURS[provider]
    except KeyError:
        raise LookupError(f"the sending hours of provider {provider!r} aren't known to rules/policy.py") from None
    return now - SMS_TIMEOUT if hours is None else hours.before(now, SMS_TIMEOUT)


SNAPSHOT_OLD_AFTER = timedelta(days=2)
SNAPSHOT_UNKNOWN_AFTER = timedelta(days=7)


def snapshot_state(as_of: date | datetime, now: datetime, zone: tzinfo) -> SnapshotState:
    """What a snapshot of NHS App accounts is worth at ``now`` (aware): older than 2 days warns, than 7 counts as unknown.

    A date is compared by whole calendar days in ``zone``; a datetime by the exact age, a naive one being
    workspace time. One dated after ``now`` is ``current``.
    """
    if isinstance(as_of, datetime):
        age = now - (as_of if as_of.tzinfo else as_of.replace(tzinfo=zone))
    else:
        age = now.astimezone(zone).date() - as_of
    if age > SNAPSHOT_UNKNOWN_AFTER:
        return "unknown"
    return "old" if age > SNAPSHOT_OLD_AFTER else "current"


REPEAT_WINDOW = timedelta(days=30)
LIKELY_TO_FAIL_MONTHS = 3


def repeat_since(now: datetime) -> datetime:
    """Recipients who had this message at or after this instant are held back (SPEC 2.1)."""
    return now - REPEAT_WINDOW


def likely_to_fail_since(now: datetime, zone: tzinfo) -> datetime:
    """Three calendar months before ``now``, at the same time of day in ``zone``; aware, UTC.

    A day the month doesn't have becomes its last one: from 31 May back to 28 (29) February.
    """
    here = now.astimezone(zone)
    years, month = divmod(here.year * 12 + here.month - 1 - LIKELY_TO_FAIL_MONTHS, 12)
    day = min(here.day, monthrange(years, month + 1)[1])
    return here.replace(year=years, month=month + 1, day=day).astimezone(UTC)
