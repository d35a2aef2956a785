"""Who is reminded of a questionnaire, by which path, and in which words (issue 4: day 3 and 6, blood pressure daily).

A reminder is one more message to a patient who had the first and hasn't answered. Each goes once, or not at all: where
something stands against it at its moment it is left out, and the next one has its own moment.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from types import MappingProxyType
from typing import Literal

from batch_pipeline.rules.policy import ReminderPolicy

Against = Literal[
    "cancelled",
    "answered",
    "answered_today",
    "link_revoked",
    "link_locked",
    "link_over",
    "too_late",
    "not_reached",
    "just_texted",
    "just_reminded",
    "no_details",
    "not_to_be_sent",
    "likely_to_fail",
]

AGAINST: Mapping[Against, str] = MappingProxyType(
    {
        "cancelled": "The batch was cancelled",
        "answered": "The patient has answered",
        "answered_today": "The patient gave readings since the reminder before",
        "link_revoked": "The link was revoked",
        "link_locked": "The link is locked",
        "link_over": "The link's time is over, or nearly",
        "too_late": "Its moment was too long ago",
        "not_reached": "The message didn't reach the patient, as far as is known",
        "just_texted": "A text has only just followed the App message",
        "just_reminded": "The reminder before went late, or has still to go",
        "no_details": "The patient's details were purged",
        "not_to_be_sent": "Opted out, died, or no longer registered",
        "likely_to_fail": "Mobile number is likely to fail",
    }
)
"""Why a reminder doesn't go, in this order."""

DAY = timedelta(days=1)
LATEST = timedelta(hours=12)
"""So long after its moment a reminder is still queued."""
APART = timedelta(hours=12)
"""So long after the text that an App message fell back to, and after another reminder, there is no reminder."""
LEAVES = timedelta(hours=1)
"""So much of its life a link must have left."""

_HAVE_IT = frozenset({"accepted", "delivered", "read", "timed_out"})
"""A text of which nothing was heard for 72 hours may well have arrived. That is the moment of day 3: of a provider that
tells nothing, nobody would be reminded by text."""


@dataclass(frozen=True, slots=True)
class PatientFacts:
    """What is known of a patient at the moment a reminder is due. States are those of ``rules.states``."""

    channel: str
    """Of the first message."""
    primary: str
    fallback: str | None
    """None where no text followed."""
    fallback_begun_at: datetime | None
    reminded_at: datetime | None
    """When the last reminder was begun; now for one that is in a chunk which isn't settled: that may go yet."""
    completed: bool
    """The answers were sent."""
    changed_at: datetime | None
    """When something was answered last."""
    link_revoked: bool
    link_locked: bool
    link_ends_at: datetime


def reached_by(known: PatientFacts) -> str | None:
    """The recipient's path by now: the text's that followed, unless the App's message was read; None: neither got there."""
    if known.fallback in _HAVE_IT and known.primary != "read":
        return "sms"
    return known.channel if known.primary in _HAVE_IT else None


def against(known: PatientFacts, policy: ReminderPolicy, due_at: datetime, now: datetime) -> Against | None:
    """Why the reminder that was due at ``due_at`` doesn't go at ``now``; None when nothing of this stands against it."""
    since_last = due_at - DAY
    holds: Mapping[Against, bool] = {
        "answered": known.completed,
        "answered_today": policy.daily and known.changed_at is not None and known.changed_at > since_last,
        "link_revoked": known.link_revoked,
        "link_locked": known.link_locked,
        "link_over": known.link_ends_at < now + LEAVES,
        "too_late": now - due_at > LATEST,
        "not_reached": reached_by(known) is None,
        "just_texted": _is_new(known, now),
        "just_reminded": known.reminded_at is not None and now - known.reminded_at < APART,
    }
    return next((reason for reason, does in holds.items() if does), None)


def _is_new(known: PatientFacts, now: datetime) -> bool:
    """Also one that is about to go."""
    if known.fallback in ("queued", "sending"):
        return True
    return known.fallback_begun_at is not None and now - known.fallback_begun_at < APART


def next_day(policy: ReminderPolicy, day: int) -> int | None:
    """The day of the reminder after that one; None after the last."""
    return next((each for each in policy.days if each > day), None)


# Words ---------------------------------------------------------------------------------------------------------------

SMS_BEGINS = "Reminder: "
BEGINS = "This is a reminder.\n\n"
_SUBJECT_BEGINS = "Reminder: "


def text_of(channel: str, text: str) -> str:
    """A reminder's text: that of the message, with a word before it."""
    return f"{SMS_BEGINS if channel == 'sms' else BEGINS}{text}"


def subject_of(subject: str | None) -> str | None:
    """An email's subject, with a word before it."""
    return None if subject is None else f"{_SUBJECT_BEGINS}{subject}"
