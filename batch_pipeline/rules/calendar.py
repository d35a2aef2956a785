"""Appointments as iCalendar has them (RFC 5545): one for a patient's own calendar, and slots from a clinic's.

``icalendar`` takes a quarter of a second to load: who needs this now and then imports it then.
"""

# pyright: reportUnknownMemberType=false
# (icalendar's own types leave some out)

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta

import icalendar

from batch_pipeline.rules.slots import NotASlot, Slot, in_zone

_REPEATS = ("RRULE", "RDATE", "RECURRENCE-ID")


@dataclass(frozen=True, slots=True)
class Event:
    """An appointment in a calendar. ``uid`` and a higher ``sequence``: this one takes the place of the one before."""

    uid: str
    sequence: int
    made_at: datetime
    summary: str
    slot: Slot


def calendar(event: Event) -> bytes:
    """The file for a patient. Nothing of the patient is in it."""
    slot, made = event.slot, icalendar.Event()
    for name, value in {
        "uid": event.uid,
        "sequence": event.sequence,
        "dtstamp": event.made_at.astimezone(UTC),
        "dtstart": slot.starts_at.astimezone(UTC),
        "dtend": slot.ends_at.astimezone(UTC),
        "summary": event.summary,
        "location": slot.place,
        "description": slot.clinician and f"With {slot.clinician}",
        "status": "CONFIRMED",
        "class": "PRIVATE",
    }.items():
        if value is not None:
            made.add(name, value)
    whole = icalendar.Calendar()
    whole.add("version", "2.0")
    whole.add("prodid", "-//batch_pipeline//self-book//EN")
    whole.add("method", "PUBLISH")
    whole.add_component(made)
    return whole.to_ical()


class NotACalendar(ValueError):
    """A text that isn't one whole iCalendar file."""


def written_slots(text: str) -> Iterator[tuple[int, dict[str, str] | NotASlot]]:
    """Each event of a calendar as a file of slots would write it (``slots.COLUMNS``), or why it is none; and its line.

    Its id is the event's own, the clinician its organiser's name, the capacity ``X-CAPACITY``. Cancelled ones are left out.
    """
    begins = [number for number, line in enumerate(text.split("\n"), 1) if line.rstrip().upper() == "BEGIN:VEVENT"]
    try:
        found = list(zip(begins, icalendar.Calendar.from_ical(text).walk("VEVENT"), strict=True))
    except (ValueError, KeyError, IndexError, TypeError, AttributeError):  # as the fault has it
        raise NotACalendar from None
    for line, event in found:
        if str(event.get("STATUS", "")).upper() == "CANCELLED":
            continue
        try:
            yield line, _written(event)
        except NotASlot as why:
            yield line, why


def _written(event: icalendar.Component) -> dict[str, str]:
    if any(name in event for name in _REPEATS):
        raise NotASlot("this event repeats: make each time an event of its own, or write the slots as CSV")
    organizer = event.get("ORGANIZER")
    return {
        "id": str(event.get("UID", "")),
        "start": _start(event),
        "minutes": _minutes(event),
        "clinician": str(organizer.params.get("CN", "")) if isinstance(organizer, icalendar.vCalAddress) else "",
        "place": str(event.get("LOCATION", "")),
        "capacity": _plain(event, "X-CAPACITY"),
    }


def _plain(event: icalendar.Component, name: str) -> str:
    value = event.get(name, b"")
    return value.decode() if isinstance(value, bytes) else str(value)


def _start(event: icalendar.Component) -> str:
    """With its offset, where the calendar says in which zone it is; else as the workspace's clocks show it."""
    given = event.get("DTSTART")
    start = _when(event, "DTSTART")
    if not isinstance(start, datetime):
        return start.isoformat() if isinstance(start, date) else str(given or "")
    zone = given.params.get("TZID")
    if start.tzinfo is None and zone is not None:
        raise NotASlot(f'start: the time zone "{str(zone)[:40]}" isn\'t known: write a name such as Europe/London')
    if start.tzinfo is None:
        return start.isoformat()
    return in_zone(start.replace(tzinfo=None), start.tzinfo).isoformat()


def _when(event: icalendar.Component, name: str) -> object:
    """A moment, a day or a length of time; ``None`` where it isn't there, can't be read, or stands twice."""
    given = event.get(name)
    return given.dt if isinstance(given, icalendar.vDDDTypes) else None


def _minutes(event: icalendar.Component) -> str:
    start, end, lasts = (_when(event, name) for name in ("DTSTART", "DTEND", "DURATION"))
    if isinstance(start, datetime) and isinstance(end, datetime) and (start.tzinfo is None) == (end.tzinfo is None):
        lasts = end - start if start.tzinfo is None else end.astimezone(UTC) - start.astimezone(UTC)
    if not isinstance(lasts, timedelta):
        raise NotASlot("it has no end: give it a DTEND like its DTSTART, or a DURATION")
    return f"{lasts / timedelta(minutes=1):g}"
