"""What a record of the Personal Demographics Service says of a patient, for a message (SPEC 2.3, PROVIDERS.md 2).

When in doubt nothing is sent: a death notice that nobody knows counts as one, and so does a mark of secrecy.
"""

import re
from calendar import monthrange
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Literal
from zoneinfo import ZoneInfo

from batch_pipeline.rules import emails, phones

Outcome = Literal["found", "deceased", "restricted", "invalidated", "exit_coded", "not_found", "other_person", "failed"]
OUTCOMES: tuple[Outcome, ...] = (
    "found",
    "deceased",
    "restricted",
    "invalidated",
    "exit_coded",
    "not_found",
    "other_person",
    "failed",
)
"""``found`` says nothing of details: a record may hold none."""
UNSETTLED: frozenset[Outcome] = frozenset({"other_person", "failed"})
"""Of these the next planning asks again: the service may be back, or the file's date of birth corrected."""

_NOT_DEAD = frozenset({"U"})
"""DeathNotificationStatus: 1 informal, 2 formal, U removed (the patient isn't dead)."""
_OPEN = frozenset({"U"})
"""meta.security: U unrestricted, R restricted."""
_ZONE = ZoneInfo("Europe/London")


@dataclass(frozen=True, slots=True)
class Period:
    """FHIR dateTimes as they stand: a year, a month, a day or a moment; None where there is no such end."""

    start: str | None = None
    end: str | None = None


@dataclass(frozen=True, slots=True)
class Telecom:
    """One way to reach the patient."""

    system: str | None
    use: str | None
    value: str | None
    period: Period = Period()


@dataclass(frozen=True, slots=True)
class Record:
    """As much of a patient's record as is read. Personal, but for its form."""

    nhs_number: str
    security: Sequence[str] = ()
    died: str | None = None
    """deceasedDateTime, in any of its forms."""
    death_notices: Sequence[str] = ()
    removals: Sequence[Period] = ()
    """When each removal from registration holds."""
    telecoms: Sequence[Telecom] = ()
    born: str | None = None
    """birthDate: a year, a month or a day."""


@dataclass(frozen=True, slots=True)
class Details:
    """What a look-up came to."""

    outcome: Outcome
    current_number: str | None = None
    """The NHS number that has superseded the one that was asked for."""
    mobile: str | None = None
    """E.164."""
    email: str | None = None


FAILED = Details("failed")


def judge(asked: str, record: Record, now: datetime, born: date | None = None) -> Details:
    """What a record says of the patient who was asked for as ``asked``, at ``now`` (aware).

    Nothing at all where it is of another date of birth than ``born``: a number that is a slip of the pen is mostly
    somebody else's, whose details would get this patient's message.
    """
    if born is not None and record.born is not None and not born.isoformat().startswith(record.born):
        return Details("other_person")
    current = record.nhs_number if record.nhs_number != asked else None
    if record.died is not None or set(record.death_notices) - _NOT_DEAD:
        return Details("deceased", current)
    if set(record.security) - _OPEN:
        return Details("restricted", current)
    if any(_holds(period, now, unclear=True) for period in record.removals):
        return Details("exit_coded", current)
    in_force = [telecom for telecom in record.telecoms if _holds(telecom.period, now, unclear=False)]
    return Details("found", current, _mobile(in_force), _email(in_force))


def _mobile(telecoms: Sequence[Telecom]) -> str | None:
    """The usable one that began last; of several, the first of the record."""
    told = [each for each in telecoms if (each.system, each.use) == ("phone", "mobile")]
    return next((found for each in _latest_first(told) if (found := phones.classify(each.value).e164)), None)


def _email(telecoms: Sequence[Telecom]) -> str | None:
    told = [each for each in telecoms if each.system == "email" and each.use != "old"]
    return next((found for each in _latest_first(told) if (found := emails.classify(each.value).address)), None)


def _latest_first(telecoms: Sequence[Telecom]) -> list[Telecom]:
    began = {id(each): _first_moment(each.period.start or "") or _LONG_AGO for each in telecoms}
    return sorted(telecoms, key=lambda each: began[id(each)], reverse=True)


_LONG_AGO = datetime(1, 1, 2, tzinfo=UTC)


def _holds(period: Period, now: datetime, *, unclear: bool) -> bool:
    """Whether a period has begun and not ended; ``unclear`` for one that can't be read."""
    begins = _LONG_AGO if period.start is None else _first_moment(period.start)
    ends = now if period.end is None else _end(period.end)
    if begins is None or ends is None:
        return unclear
    return begins <= now <= ends


_DATE_TIME = re.compile(r"([0-9]{4})(?:-([0-9]{2})(?:-([0-9]{2}))?)?")


def _first_moment(text: str) -> datetime | None:
    if found := _DATE_TIME.fullmatch(text):
        return _midnight(int(found[1]), int(found[2] or 1), int(found[3] or 1))
    return _moment(text)


def _end(text: str) -> datetime | None:
    """The last moment of a year, a month or a day; None for what is none of these."""
    found = _DATE_TIME.fullmatch(text)
    if found is None:
        return _moment(text)
    year, month = int(found[1]), int(found[2] or 12)
    if year == 0 or not 1 <= month <= 12:
        return None
    last = _midnight(year, month, int(found[3] or monthrange(year, month)[1]))
    return None if last is None else last + timedelta(days=1, microseconds=-1)


def _midnight(year: int, month: int, day: int) -> datetime | None:
    try:
        return datetime.combine(date(year, month, day), time(), _ZONE).astimezone(UTC)
    except (ValueError, OverflowError):
        return None


def _moment(text: str) -> datetime | None:
    try:
        moment = datetime.fromisoformat(text)
        return (moment if moment.tzinfo else moment.replace(tzinfo=_ZONE)).astimezone(UTC)
    except (ValueError, OverflowError):
        return None
