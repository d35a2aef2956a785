"""One appointment as an iCalendar file (RFC 5545), for a patient's own calendar. Nothing of the patient is in it."""

from dataclasses import dataclass
from datetime import UTC, datetime

from batch_pipeline.rules.slots import Slot

_OCTETS = 75
"""Of a line; the rest goes onto the next, after a space (RFC 5545, 3.1)."""
_ESCAPES = str.maketrans({"\\": "\\\\", ";": "\\;", ",": "\\,", "\n": "\\n"})


@dataclass(frozen=True, slots=True)
class Event:
    """An appointment in a calendar. ``uid`` and a higher ``sequence``: this one takes the place of the one before."""

    uid: str
    sequence: int
    made_at: datetime
    summary: str
    slot: Slot


def calendar(event: Event) -> bytes:
    """The file."""
    slot = event.slot
    lines = [
        "BEGIN:VCALENDAR",
        "VERSION:2.0",
        "PRODID:-//batch_pipeline//self-book//EN",
        "METHOD:PUBLISH",
        "BEGIN:VEVENT",
        f"UID:{event.uid}",
        f"SEQUENCE:{event.sequence}",
        f"DTSTAMP:{_instant(event.made_at)}",
        f"DTSTART:{_instant(slot.starts_at)}",
        f"DTEND:{_instant(slot.ends_at)}",
        f"SUMMARY:{_text(event.summary)}",
        *([f"LOCATION:{_text(slot.place)}"] if slot.place else []),
        *([f"DESCRIPTION:{_text(f'With {slot.clinician}')}"] if slot.clinician else []),
        "STATUS:CONFIRMED",
        "CLASS:PRIVATE",
        "END:VEVENT",
        "END:VCALENDAR",
    ]
    return b"".join(_folded(line) for line in lines)


def _instant(moment: datetime) -> str:
    return f"{moment.astimezone(UTC):%Y%m%dT%H%M%SZ}"


def _text(text: str) -> str:
    return text.translate(_ESCAPES)


def _folded(line: str) -> bytes:
    """A line in pieces of at most 75 octets, no character torn."""
    pieces, piece = list[bytes](), b""
    for character in line:
        octets = character.encode()
        if len(piece) + len(octets) > _OCTETS:
            pieces.append(piece)
            piece = b" "
        piece += octets
    return b"\r\n".join([*pieces, piece]) + b"\r\n"
