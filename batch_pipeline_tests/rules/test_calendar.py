from datetime import UTC, datetime

from batch_pipeline.rules.calendar import Event, calendar
from batch_pipeline.rules.slots import Slot

SLOT = Slot("A", datetime(2026, 12, 1, 9, tzinfo=UTC), 10, "Nurse Brown", "Room 3; left, then up\\down", 2)
EVENT = Event("b-1", 2, datetime(2026, 10, 1, 9, tzinfo=UTC), "Appointment at Larkfield", SLOT)


def test_an_appointment_as_a_calendar_reads_it() -> None:
    assert calendar(EVENT).decode().split("\r\n") == [
        *("BEGIN:VCALENDAR", "VERSION:2.0", "PRODID:-//batch_pipeline//self-book//EN", "METHOD:PUBLISH"),
        *("BEGIN:VEVENT", "UID:b-1", "SEQUENCE:2", "DTSTAMP:20261001T090000Z"),
        *("DTSTART:20261201T090000Z", "DTEND:20261201T091000Z", "SUMMARY:Appointment at Larkfield"),
        *("LOCATION:Room 3\\; left\\, then up\\\\down", "DESCRIPTION:With Nurse Brown"),
        *("STATUS:CONFIRMED", "CLASS:PRIVATE", "END:VEVENT", "END:VCALENDAR", ""),
    ]


def test_a_slot_without_place_and_clinician_has_no_empty_lines() -> None:
    bare = calendar(Event("b-1", 0, EVENT.made_at, "Appointment", Slot("A", SLOT.starts_at, 10, None, None, 1)))
    assert b"LOCATION" not in bare
    assert b"DESCRIPTION" not in bare


def test_long_lines_are_folded_and_no_character_is_torn() -> None:
    name = "Clinique de l’Hôpital " * 12
    folded = calendar(Event("b-1", 0, EVENT.made_at, name, SLOT)).decode()
    lines = folded.split("\r\n")
    assert max(len(line.encode()) for line in lines) <= 75
    assert f"SUMMARY:{name}" in folded.replace("\r\n ", "").split("\r\n")
