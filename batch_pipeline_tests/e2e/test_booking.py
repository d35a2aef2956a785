"""A self-book batch from the shell to the patient's browser and back to what the practice reads."""

import json
import re
from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path

import httpx
import pytest

from batch_pipeline.providers.protocol import OutgoingMessage
from batch_pipeline_tests.e2e.surgery import Person, Surgery, T, by_email, by_sms, csv_text, hours
from batch_pipeline_tests.e2e.test_links import BORN, SITE, browser, posted, token_in
from batch_pipeline_tests.gateway.patients import Browser, words

__all__ = ["posted"]

BODY = "Dear {{ first_name }}, please book your flu jab: {{ link }}"
SLOTS = """id,start,minutes,clinician,place,capacity
A,2026-10-06T09:30,10,Nurse Brown,Room 3,1
B,2026-10-06T12:00,10,=Nurse Green,Room 3,2
C,2026-10-07T16:30,10,Nurse Brown,Room 3,2
"""
REFUSED = "1324681000000101"
DAY = timedelta(days=1)


def clinic(surgery: Surgery, text: str = SLOTS, name: str = "flu-clinic.csv") -> None:
    surgery.put(surgery.home.slots / name, text)


def invite(surgery: Surgery, people: Sequence[Person] | str, batch: str = "flu", **message: str) -> Path:
    surgery.workspace(links={"base_url": SITE})
    said = {"type": "self_book", "body": BODY, "booking": "flu-clinic", **message}
    return surgery.batch(batch, people, message=said)


def submit(patient: Browser, shown: httpx.Response, **chosen: str) -> httpx.Response:
    action = re.search(r'<form method="post" action="([^"]+)"', shown.text)
    assert action is not None, words(shown)
    kept = dict(re.findall(r'<input type="hidden" name="([^"]+)" value="([^"]*)"', shown.text))
    return patient.client.post(action[1], data=kept | chosen)


def book(surgery: Surgery, token: str, day: str, time: str, now: datetime) -> httpx.Response:
    patient = browser(surgery, now)
    assert patient.type_in(token, BORN).status_code == 303
    times = patient.client.get(f"/{token}/times/{day}")
    number = re.search(rf'for="slot-([0-9]+)">{time}<', times.text)
    assert number is not None, words(times)
    return submit(patient, submit(patient, times, slot=number[1]))


def press(surgery: Surgery, token: str, place: str, now: datetime) -> None:
    patient = browser(surgery, now)
    patient.type_in(token, BORN)
    assert submit(patient, patient.client.get(f"/{token}/{place}")).status_code == 303


@pytest.mark.both_ledgers
def test_a_self_book_batch_from_the_slots_to_the_list_of_those_who_booked(
    surgery: Surgery, posted: list[OutgoingMessage]
) -> None:
    clinic(surgery)
    people = [by_sms(1), by_email(2), by_sms(3), by_sms(4), by_sms(5)]
    rows = [*(person.row() for person in people), by_sms(6).row() | {"Date of birth": ""}]
    spec = invite(surgery, csv_text(rows), decline_snomed=REFUSED)
    surgery.done("check", spec, at=T)
    shown = surgery.done("submit", spec, at=T).words
    assert "flu-clinic: 3 slots with 5 places, from 2026-10-06T09:30+01:00 to 2026-10-07T16:30+01:00" in shown
    assert f"{SITE}/YourPersonalLinkIsHere" in shown
    assert "patients are asked to book" not in shown
    surgery.done("approve", "flu", "--by", "Dr Test", at=T)
    surgery.done("dispatch", "flu", at=T)
    surgery.status("flu", rejected=1, recipients={"email": 0, "nhs_app": 0, "sms": 5})
    tokens = [token_in(message) for message in sorted(posted, key=lambda each: each.reference)]

    assert book(surgery, tokens[0], "2026-10-06", "9:30am", T + hours(1)).status_code == 303
    assert book(surgery, tokens[1], "2026-10-06", "midday", T + hours(1)).status_code == 303
    assert book(surgery, tokens[1], "2026-10-07", "4:30pm", T + hours(2)).status_code == 303
    assert book(surgery, tokens[2], "2026-10-07", "4:30pm", T + hours(2)).status_code == 303
    press(surgery, tokens[2], "cancel", T + hours(3))
    press(surgery, tokens[3], "decline", T + hours(3))

    surgery.done("report", "flu", at=T + hours(4))
    first, second, third, fourth, fifth = surgery.report("flu", "bookings.csv")
    assert (first["Line"], first["NHS number"], first["Name"]) == ("2", people[0].nhs, "Forename001 Familyname001")
    assert (first["Answer"], first["Start"], first["Slot"]) == ("Booked", "2026-10-06T09:30:00+01:00", "A")
    assert (second["With"], second["Place"], second["Slot"]) == ("Nurse Brown", "Room 3", "C")
    assert (second["Chosen"], second["Minutes"]) == ("2026-10-01T12:00:00+01:00", "10")
    assert (third["Answer"], third["Cancelled"]) == ("Cancelled", "2026-10-01T13:00:00+01:00")
    assert (fourth["Answer"], fourth["Decline code"], fourth["Slot"]) == ("Declined", REFUSED, "")
    assert (fifth["Answer"], fifth["Code"], fifth["Start"]) == ("Not answered", "none", "")
    left = {row["Slot"]: (row["Places"], row["Booked"], row["Free"]) for row in surgery.report("flu", "slots.csv")}
    assert left == {"A": ("1", "1", "0"), "B": ("2", "0", "2"), "C": ("2", "1", "1")}
    assert [row["With"] for row in surgery.report("flu", "slots.csv")][1] == "'=Nurse Green"
    assert (surgery.home.reports / "flu" / "bookings.csv").stat().st_mode & 0o077 == 0
    said = surgery.done("bookings", "flu", at=T + hours(4)).words
    counted = "flu: 2 booked, 1 declined, 1 cancelled, 1 not answered; 3 of 5 places of flu-clinic are free"
    assert counted in said
    assert not any(person.nhs in said or person.surname in said for person in people)
    assert counted in surgery.done("bookings", at=T + hours(4)).words
    found = surgery.done("bookings", "flu", "--json", at=T + hours(4)).json
    assert (found["booked"], found["free"], len(found["lines"])) == (2, 3, 5)
    assert found["lines"][0]["starts_at"] == "2026-10-06T09:30+01:00"

    surgery.done("save", "flu", at=T + hours(4))
    [file] = (surgery.home.records / "flu").glob("Appointment-*.ndjson")
    assert [json.loads(line)["start"] for line in file.read_text().splitlines()] == [
        "2026-10-06T08:30:00.000+00:00",
        "2026-10-07T15:30:00.000+00:00",
    ]
    press(surgery, tokens[0], "cancel", T + hours(5))
    surgery.done("save", at=T + hours(5))
    ends = [path for path in (surgery.home.records / "flu").glob("Appointment-*.ndjson") if path != file]
    assert [json.loads(path.read_text())["status"] for path in ends] == ["cancelled"]
    surgery.done("save", at=T + 8 * DAY)
    late = set((surgery.home.records / "flu").glob("Appointment-*.ndjson")) - {file, *ends}
    assert [json.loads(path.read_text())["cancelationReason"]["coding"][0]["code"] for path in late] == [REFUSED]


def test_a_new_file_of_slots_holds_for_all_batches_and_keeps_what_was_booked(
    surgery: Surgery, posted: list[OutgoingMessage]
) -> None:
    clinic(surgery)
    surgery.send(invite(surgery, [by_sms(1)]))
    surgery.send(invite(surgery, [by_sms(2)], "flu-2"))
    tokens = [token_in(message) for message in posted]
    book(surgery, tokens[0], "2026-10-06", "9:30am", T + hours(1))
    clinic(surgery, SLOTS.replace("A,2026-10-06T09:30", "D,2026-10-06T10:00").replace("Room 3,2", "Room 3,3"))
    said = surgery.done("slots", "flu-clinic", "--by", "Dr Grey", at=T + hours(2)).out
    assert said.startswith("flu-clinic of larkfield: 1 new, 2 changed, 1 taken out\nslot A: 1 booked it, and it has 0")
    again = surgery.done("slots", "flu-clinic", "--by", "Dr Grey", at=T + hours(2)).out
    assert again == "flu-clinic of larkfield: nothing has changed\n"
    patient = browser(surgery, T + hours(3))
    patient.type_in(tokens[0], BORN)
    assert "Time 9:30am" in words(patient.open(tokens[0]))
    assert book(surgery, tokens[1], "2026-10-06", "10am", T + hours(3)).status_code == 303
    surgery.done("report", "flu-2", at=T + hours(4))
    remarks = {row["Slot"]: row["Remark"] for row in surgery.report("flu-2", "slots.csv")}
    assert remarks == {"A": "taken out of the file; the patients are still booked", "B": "", "C": "", "D": ""}
    clinic(surgery, SLOTS.replace("Room 3,1", "Room 4,1"))
    refused = surgery.refused("slots", "flu-clinic", "--by", "Dr Grey", at=T + hours(4))
    assert 'flu-clinic.csv, line 2: slot "A" has been booked with another start, length, clinician or place' in refused
    kept = [path for path in surgery.stored() if path.startswith("slots_files/")]
    assert len(kept) == 2


def test_a_batch_without_slots_says_what_is_missing(surgery: Surgery) -> None:
    spec = invite(surgery, [by_sms(1)])
    for command in ("check", "submit"):
        refused = surgery.refused(command, spec, at=T)
        assert f'there are no slots "flu-clinic": put them into {surgery.home.slots}/flu-clinic.csv' in refused
    clinic(surgery, SLOTS.replace("2026-10-06T12:00", "2026-10-25T01:30"))
    for command in ("check", "submit"):
        assert "flu-clinic.csv, line 3: start 2026-10-25T01:30 comes twice" in surgery.refused(command, spec, at=T)
    clinic(surgery)
    wrong = invite(surgery, [by_sms(1)], decline_snomed="1324681000000102")
    assert "message.decline_snomed" in surgery.refused("check", wrong, at=T)
    no_link = invite(surgery, [by_sms(1)], body="Please book.")
    assert "the message carries a link, but not every text of it shows" in surgery.refused("check", no_link, at=T)
    surgery.workspace(links=None)
    assert "doesn't say where links lead" in surgery.refused("submit", spec, at=T)
    assert "there is no batch flu" in surgery.refused("bookings", "flu")
    assert surgery.done("bookings").out == "no batch offers slots to book\n"


def test_a_message_with_a_link_of_over_two_fragments_can_not_be_approved(surgery: Surgery) -> None:
    """The address is counted: it takes 55 characters here."""
    clinic(surgery)
    fits = "x" * (306 - len(f" {SITE}/") - 22) + " {{ link }}"
    surgery.done("submit", invite(surgery, [by_sms(1)], body=fits), at=T)
    refused = surgery.refused("submit", invite(surgery, [by_sms(1)], body=f"x{fits}"), at=T)
    assert "a self-book SMS may not exceed 2 fragments" in refused


def test_fewer_places_than_patients_are_a_warning(surgery: Surgery) -> None:
    clinic(surgery, SLOTS.splitlines()[0] + "\n" + SLOTS.splitlines()[1] + "\n")
    shown = surgery.done("submit", invite(surgery, [by_sms(1), by_sms(2)]), at=T).words
    assert "the slots flu-clinic have 1 places, and 2 patients are asked to book" in shown
