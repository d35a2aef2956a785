from datetime import UTC, datetime

import pytest

from batch_pipeline.rules.calendar import Event, NotACalendar, calendar, written_slots
from batch_pipeline.rules.slots import NotASlot, Slot

SLOT = Slot("A", datetime(2026, 12, 1, 9, tzinfo=UTC), 10, "Nurse Brown", "Room 3; left, then up\\down", 2)
EVENT = Event("b-1", 2, datetime(2026, 10, 1, 9, tzinfo=UTC), "Appointment at Larkfield", SLOT)


def test_an_appointment_as_a_patient_s_calendar_reads_it() -> None:
    lines = calendar(EVENT).decode().split("\r\n")
    assert lines[:4] == ["BEGIN:VCALENDAR", "VERSION:2.0", "PRODID:-//batch_pipeline//self-book//EN", "METHOD:PUBLISH"]
    assert lines[-3:] == ["END:VEVENT", "END:VCALENDAR", ""]
    assert sorted(lines[5:-3]) == [
        *("CLASS:PRIVATE", "DESCRIPTION:With Nurse Brown", "DTEND:20261201T091000Z", "DTSTAMP:20261001T090000Z"),
        *("DTSTART:20261201T090000Z", "LOCATION:Room 3\\; left\\, then up\\\\down", "SEQUENCE:2", "STATUS:CONFIRMED"),
        *("SUMMARY:Appointment at Larkfield", "UID:b-1"),
    ]


def test_a_slot_without_place_and_clinician_has_no_empty_lines() -> None:
    bare = calendar(Event("b-1", 0, EVENT.made_at, "Appointment", Slot("A", SLOT.starts_at, 10, None, None, 1)))
    assert b"LOCATION" not in bare
    assert b"DESCRIPTION" not in bare


def test_long_lines_are_folded_and_no_character_is_torn() -> None:
    name = "Clinique de l’Hôpital " * 12
    folded = calendar(Event("b-1", 0, EVENT.made_at, name, SLOT)).decode()
    assert max(len(line.encode()) for line in folded.split("\r\n")) <= 75
    assert f"SUMMARY:{name}" in folded.replace("\r\n ", "").split("\r\n")


def clinic(*lines: str) -> str:
    return "\n".join(("BEGIN:VCALENDAR", "VERSION:2.0", "BEGIN:VEVENT", *lines, "END:VEVENT", "END:VCALENDAR", ""))


TEN_MINUTES = ("UID:a", "DURATION:PT10M")
OUTLOOK = """BEGIN:VTIMEZONE
TZID:GMT Standard Time
BEGIN:STANDARD
DTSTART:16010101T020000
TZOFFSETFROM:+0100
TZOFFSETTO:+0000
RRULE:FREQ=YEARLY;BYDAY=-1SU;BYMONTH=10
END:STANDARD
BEGIN:DAYLIGHT
DTSTART:16010101T010000
TZOFFSETFROM:+0000
TZOFFSETTO:+0100
RRULE:FREQ=YEARLY;BYDAY=-1SU;BYMONTH=3
END:DAYLIGHT
END:VTIMEZONE
"""


def test_an_event_is_a_slot_as_a_file_writes_it() -> None:
    text = clinic(
        *("UID:a@example.org", "DTSTART:20261201T090000Z", "DTEND:20261201T091500Z", "SUMMARY:Flu clinic"),
        *("ORGANIZER;CN=Nurse Brown:mailto:clinic@example.org", "LOCATION:Room 3\\, left", "X-CAPACITY:4"),
    )
    [(line, written)] = written_slots(text)
    assert line == 3
    assert written == {
        "id": "a@example.org",
        "start": "2026-12-01T09:00:00+00:00",
        "minutes": "15",
        "clinician": "Nurse Brown",
        "place": "Room 3, left",
        "capacity": "4",
    }


@pytest.mark.parametrize(
    ("start", "written"),
    [
        ("DTSTART:20260701T090000Z", "2026-07-01T09:00:00+00:00"),
        ("DTSTART;TZID=Europe/London:20260701T090000", "2026-07-01T08:00:00+00:00"),
        ("DTSTART;TZID=GMT Standard Time:20260701T090000", "2026-07-01T08:00:00+00:00"),
        ("DTSTART:20260701T090000", "2026-07-01T09:00:00"),
        ("DTSTART;VALUE=DATE:20260701", "2026-07-01"),
        ("DTSTART:20260701T9", "20260701T9"),
        ("SUMMARY:none", ""),
    ],
    ids=["UTC", "a zone", "Outlook's own zone", "no zone: the workspace's", "a day", "broken", "none"],
)
def test_a_start_keeps_its_zone(start: str, written: str) -> None:
    text = clinic(*TEN_MINUTES, start).replace("BEGIN:VEVENT", f"{OUTLOOK}BEGIN:VEVENT")
    [(_, found)] = written_slots(text)
    assert isinstance(found, dict)
    assert (found["start"], found["minutes"]) == (written, "10")


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        ((*TEN_MINUTES, "DTSTART:20261201T090000Z", "RRULE:FREQ=DAILY"), "this event repeats: make each time an event"),
        ((*TEN_MINUTES, "DTSTART:20261201T090000Z", "RDATE:20261202T090000Z"), "this event repeats"),
        ((*TEN_MINUTES, "DTSTART:20261201T090000Z", "RECURRENCE-ID:20261202T090000Z"), "this event repeats"),
        ((*TEN_MINUTES, "DTSTART;TZID=Nowhere/Land:20261201T090000"), 'the time zone "Nowhere/Land" isn\'t known'),
        ((*TEN_MINUTES, "DTSTART;TZID=Europe/London:20261025T013000"), "comes twice, as the clocks go back"),
        ((*TEN_MINUTES, "DTSTART;TZID=Europe/London:20270328T013000"), "there is no such time"),
        (("UID:a", "DTSTART:20261201T090000Z"), "it has no end: give it a DTEND"),
        (("UID:a", "DTSTART:20261201T090000Z", "DTEND:20261201T091000"), "it has no end: give it a DTEND like"),
    ],
)
def test_an_event_that_is_no_slot_says_why(lines: tuple[str, ...], says: str) -> None:
    [(line, why)] = written_slots(clinic(*lines))
    assert (line, isinstance(why, NotASlot)) == (3, True)
    assert says in str(why)


def test_cancelled_events_are_left_out_and_lines_are_those_of_the_file() -> None:
    one = clinic(*TEN_MINUTES, "DTSTART:20261201T090000Z", "BEGIN:VALARM", "ACTION:DISPLAY", "END:VALARM")
    one = one.replace("UID:a", "UID:a\nDESCRIPTION:all of\n BEGIN:VEVENT")
    events = one.replace(
        "END:VEVENT", "END:VEVENT\nBEGIN:VEVENT\nUID:b\nSTATUS:CANCELLED\nEND:VEVENT\nBEGIN:VEVENT\nEND:VEVENT"
    )
    assert [line for line, _ in written_slots(events)] == [3, 17]


BROKEN_ZONE = clinic(*TEN_MINUTES).replace(
    "BEGIN:VEVENT", OUTLOOK.replace("FREQ=YEARLY;", "").replace("GMT Standard Time", "Clinic Time") + "BEGIN:VEVENT"
)


@pytest.mark.parametrize(
    "text", ["", "id,start\n", BROKEN_ZONE, "BEGIN:VCALENDAR\nBEGIN:VEVENT\nEND:VCALENDAR\n", clinic() * 2]
)
def test_what_is_no_calendar_is_told(text: str) -> None:
    with pytest.raises(NotACalendar):
        list(written_slots(text))
