from datetime import UTC, datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from batch_pipeline.errors import Refused
from batch_pipeline.home import Home
from batch_pipeline.ingest.slots import SlotsFile, read_slots
from batch_pipeline.rules.slots import Known, Slot

NOW = datetime(2026, 10, 1, 9, tzinfo=UTC)
HEADINGS = "id,start,minutes,clinician,place,capacity\n"


def read(folder: Path, text: str | bytes, known: dict[str, Known] | None = None) -> SlotsFile:
    home = Home(folder)
    home.slots.mkdir(exist_ok=True)
    (home.slots / "flu.csv").write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_slots(home, "flu", ZoneInfo("Europe/London"), known or {}, NOW)


A = Slot("A", datetime(2026, 12, 1, 9, tzinfo=UTC), 10, "Nurse Brown", "Room 3", 2)


@pytest.mark.parametrize(
    "text",
    [
        HEADINGS + "A,2026-12-01T09:00,10,Nurse Brown,Room 3,2\n",
        "\ufeff" + HEADINGS + "A,2026-12-01T09:00,10,Nurse Brown,Room 3,2",
        "\r\n ID ; Start;MINUTES;clinician;place;capacity;;\r\n\r\nA;01/12/2026 09:00;10;Nurse Brown;Room 3;2;;\r\n",
        "capacity\tplace\tclinician\tminutes\tstart\tid\n2\tRoom 3\t Nurse Brown\t10\t2026-12-01 9:00\tA\n",
        HEADINGS + '"A","2026-12-01T09:00","10","Nurse\nBrown","Room 3","2"\n,,,,,\n',
    ],
    ids=["as it should be", "a BOM, no last line end", "semicolons, blank lines", "tabs, another order", "quoted"],
)
def test_slots_are_read_from_what_spreadsheets_write(tmp_path: Path, text: str) -> None:
    found = read(tmp_path, text)
    assert dict(found.slots) == {"A": A}
    assert (found.name, found.places) == ("flu.csv", 2)


def test_the_line_is_the_row_of_a_spreadsheet(tmp_path: Path) -> None:
    found = read(tmp_path, "\n" + HEADINGS + '"A",2026-12-01T09:00,10,"Nurse\nBrown",,\n\nB,2026-12-01T09:00,10,,,\n')
    assert {id_: slot.line for id_, slot in found.slots.items()} == {"A": 3, "B": 5}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "flu.csv: there is no slot in it"),
        (HEADINGS, "flu.csv: there is no slot in it: write one"),
        ("id,minutes\nA,10\n", "flu.csv, line 1: the heading start is missing: the headings are id,start,minutes,"),
        ("id,start,minutes,room\n", 'flu.csv, line 1: the heading "room" isn\'t known'),
        ("id,start,minutes,,place\n", 'flu.csv, line 1: the heading "" isn\'t known'),
        ("id,start,minutes,id\n", "flu.csv, line 1: the heading id stands there twice"),
        (HEADINGS + "A,2026-12-01T09:00,10,x,y,1,more\n", "flu.csv, line 2: it has more cells than there are headings"),
        (HEADINGS + 'A,2026-12-01T09:00,10,"x"y,,\n', "flu.csv, line 2: it can't be read: look for a stray quotation"),
        (HEADINGS + "\nA,soon,10,,,\n", 'flu.csv, line 3: start "soon" isn\'t a time'),
        (HEADINGS + "A,2026-10-25T01:30,10,,,\n", "flu.csv, line 2: start 2026-10-25T01:30 comes twice"),
        (HEADINGS + "A,2026-12-01T09:00,10,,,0\n", 'flu.csv, line 2: capacity is "0"'),
        (HEADINGS + "A,2026-09-01T09:00,10,,,\n", 'flu.csv, line 2: slot "A" has begun already'),
        (HEADINGS + "A,2026-12-01T09:00,10,,,\n" * 2, 'flu.csv, line 3: the id "A" stands on line 2 already'),
        (b"id,start,minutes\n\xff\xfe,x,10\n", "flu.csv isn't UTF-8 text; save it as UTF-8"),
    ],
)
def test_a_faulty_file_is_refused_with_file_line_and_mend(tmp_path: Path, text: str | bytes, says: str) -> None:
    with pytest.raises(Refused) as refused:
        read(tmp_path, text)
    assert str(refused.value).startswith(says)


def test_a_file_that_is_not_there_is_asked_for(tmp_path: Path) -> None:
    with pytest.raises(
        Refused, match=r'there are no slots "flu": put them into .*slots/flu\.csv, or correct message\.'
    ):
        read_slots(Home(tmp_path), "flu", ZoneInfo("Europe/London"), {}, NOW)


def test_slots_that_have_all_begun_invite_nobody(tmp_path: Path) -> None:
    before = Slot("A", datetime(2026, 9, 1, 8, tzinfo=UTC), 10, None, None, 1)
    with pytest.raises(Refused, match=r"flu\.csv: all of its slots have begun already: add some"):
        read(tmp_path, HEADINGS + "A,2026-09-01T09:00,10,,,\n", {"A": Known(before, 0, False, False)})


CALENDAR = """BEGIN:VCALENDAR
VERSION:2.0
BEGIN:VEVENT
UID:A
DTSTART;TZID=Europe/London:20261201T090000
DTEND;TZID=Europe/London:20261201T091000
ORGANIZER;CN=Nurse Brown:mailto:clinic@example.org
LOCATION:Room 3
X-CAPACITY:2
END:VEVENT
BEGIN:VEVENT
UID:B
DTSTART:20261201T101500
DURATION:PT5M
END:VEVENT
END:VCALENDAR
"""


def read_calendar(folder: Path, text: str) -> SlotsFile:
    home = Home(folder)
    home.slots.mkdir(exist_ok=True)
    (home.slots / "flu.ics").write_text(text)
    return read_slots(home, "flu", ZoneInfo("Europe/London"), {}, NOW)


@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
def test_a_calendar_is_a_file_of_slots(tmp_path: Path, line_end: str) -> None:
    found = read_calendar(tmp_path, CALENDAR.replace("\n", line_end))
    assert dict(found.slots) == {"A": A, "B": Slot("B", datetime(2026, 12, 1, 10, 15, tzinfo=UTC), 5, None, None, 1)}
    assert (found.name, found.slots["B"].line) == ("flu.ics", 11)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("BEGIN:VCALENDAR\n", "flu.ics: this isn't a whole iCalendar file: export the calendar again"),
        ("BEGIN:VCALENDAR\nEND:VCALENDAR\n", "flu.ics: there is no slot in it"),
        (CALENDAR.replace("UID:B", "UID:A"), 'flu.ics, line 11: the id "A" stands on line 3 already'),
        (CALENDAR.replace("PT5M", "PT90S"), 'flu.ics, line 11: minutes is "1.5": write a whole number'),
        (CALENDAR.replace("UID:B", "UID:B\nRRULE:FREQ=DAILY"), "flu.ics, line 11: this event repeats"),
        (
            CALENDAR.replace("DTSTART:20261201T101500", "DTSTART:20261025T013000"),
            "flu.ics, line 11: start 2026-10-25T01:30",
        ),
        (CALENDAR.replace("UID:B\n", ""), "flu.ics, line 11: id is empty"),
        (CALENDAR.replace("X-CAPACITY:2", "X-CAPACITY:none"), 'flu.ics, line 3: capacity is "none"'),
    ],
)
def test_a_faulty_calendar_is_refused_with_file_line_and_mend(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(Refused) as refused:
        read_calendar(tmp_path, text)
    assert str(refused.value).startswith(says)


def test_two_files_of_one_name_are_one_too_many(tmp_path: Path) -> None:
    read_calendar(tmp_path, CALENDAR)
    with pytest.raises(Refused, match=r"has both flu\.csv and flu\.ics: take one away"):
        read(tmp_path, HEADINGS)
