"""A patient books, changes, cancels and declines an appointment in the pages below the date of birth."""

import asyncio
import re
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from batch_pipeline.gateway.pages.signing import COOKIE, Signer
from batch_pipeline.ledger import batches, bookings, links, outbox
from batch_pipeline.ledger.bookings import Clinic
from batch_pipeline.ledger.engine import Ledger
from batch_pipeline.rules.links import hash_of
from batch_pipeline.rules.slots import MOST_CHOICES, Slot
from batch_pipeline_tests.gateway.patients import PDF, Browser, Desk, attachment, hidden, served, token, words
from batch_pipeline_tests.ledger import test_bookings
from batch_pipeline_tests.ledger.given import BATCH, NOW, PLAN, begin, lines, open_ledger, rows, submission
from batch_pipeline_tests.ledger.test_bookings import audited, booked
from batch_pipeline_tests.ledger.test_links import BORN, KEYS
from batch_pipeline_tests.ledger.test_links import rows as birth_rows
from batch_pipeline_tests.ledgers import on_sqlite_alone

pytestmark = on_sqlite_alone
"""What the ledger answers is the same on both: test_bookings.py of the ledger sees to that."""

CLINIC = Clinic("riverside", "flu-clinic")
TUESDAY = datetime(2026, 10, 6, 8, 30, tzinfo=UTC)  # half past nine in London
SLOTS = (
    Slot("A", TUESDAY, 10, "Nurse <Brown>", "Room 3", 1),
    Slot("B", TUESDAY + timedelta(hours=2, minutes=30), 15, None, "Room 3", 2),
    Slot("C", TUESDAY + timedelta(days=1, hours=7), 10, "Dr Grey", None, 1),
)


def take_in(ledger: Ledger, *some: Slot) -> None:
    with ledger.write() as connection:
        slots = {each.id: each for each in some}
        bookings.take_in(connection, CLINIC, slots, "flu-clinic.csv", "sha", NOW, "submit")


def invite(ledger: Ledger, count: int = 3, batch: str = BATCH, **more: Any) -> None:
    """A batch whose messages went, each with a link by which its patient books."""
    file = {"batch": batch, "message": {"type": "self_book", "booking": CLINIC.booking}}
    with ledger.write() as connection:
        spec = batches.spec_json({"batch_file": file, **more})
        batches.register(connection, submission(batch, spec=spec, message_type="self_book"), NOW)
        batches.record_plan(connection, batch, PLAN, {}, NOW)
        batches.mark_reviewed(connection, batch, PLAN, NOW)
        batches.approve(connection, batch, "Dr Grey", PLAN, NOW)
    recipients = lines(count)
    numbers = [each.line for each in recipients]
    links.write(ledger, batch, "self_book", KEYS, birth_rows(*numbers), NOW)
    outbox.write(ledger, batch, PLAN, rows(recipients), NOW)
    begin(ledger, *numbers, batch=batch)


@dataclass
class Patient:
    """A browser in which the date of birth was given."""

    desk: Desk
    line: int = 2
    born: date = BORN
    browser: Browser = field(init=False)

    def __post_init__(self) -> None:
        self.browser = self.desk.browser()
        assert self.browser.type_in(self.token, self.born).status_code == 303

    @property
    def token(self) -> str:
        return token(self.line)

    def open(self, place: str = "") -> httpx.Response:
        return self.browser.client.get(f"/{self.token}{place and '/'}{place}")

    def post(self, place: str, form: str, **data: str) -> httpx.Response:
        return self.browser.client.post(f"/{self.token}/{place}", data={"form": form, **data})

    def submit(self, page: httpx.Response, **chosen: str) -> httpx.Response:
        """Sends the form of a page as a browser does, with what was chosen."""
        action = re.search(r'<form method="post" action="([^"]+)"', page.text)
        assert action is not None, words(page)
        kept = dict(re.findall(r'<input type="hidden" name="([^"]+)" value="([^"]*)"', page.text))
        return self.browser.client.post(action[1], data=kept | chosen)

    def follow(self, page: httpx.Response, label: str) -> httpx.Response:
        found = re.search(rf'href="([^"]+)"[^>]*>{re.escape(label)}<', page.text)
        assert found is not None, words(page)
        return self.browser.client.get(found[1])

    def choose(self, day: str, time: str, start: httpx.Response | None = None) -> httpx.Response:
        """From the days to the page that asks for confirmation."""
        times = self.follow(start or self.open("days"), day)
        number = re.search(rf'for="slot-([0-9]+)">{re.escape(time)}<', times.text)
        assert number is not None, words(times)
        return self.submit(times, slot=number[1])

    def book(self, day: str = "Tuesday 6 October 2026", time: str = "9:30am") -> httpx.Response:
        return self.submit(self.choose(day, time))


@pytest.fixture
def desk(ledger: Ledger, tmp_path: Any) -> Desk:
    invite(ledger)
    take_in(ledger, *SLOTS)
    return Desk(ledger, tmp_path)


# Choosing


def test_the_free_slots_by_day_then_by_time_then_confirmed_then_booked(desk: Desk) -> None:
    patient = Patient(desk)
    days = patient.open()
    assert "Choose a day for your appointment Tuesday 6 October 2026 2 times free" in words(days)
    assert "Wednesday 7 October 2026 1 time free" in words(days)
    assert "until 8 October 2026" in words(days)
    times = patient.follow(days, "Tuesday 6 October 2026")
    assert "9:30am 10 minutes, with Nurse &lt;Brown&gt;, Room 3 midday 15 minutes, Room 3" in words(times)
    asked = patient.choose("Tuesday 6 October 2026", "9:30am", days)
    assert asked.status_code == 200
    assert "Day Tuesday 6 October 2026 Time 9:30am (10 minutes) With Nurse &lt;Brown&gt; Place Room 3" in words(asked)
    assert "It is not booked yet" in words(asked)
    assert booked(desk.ledger) == {"A": 0, "B": 0, "C": 0}
    done = patient.submit(asked)
    assert (done.status_code, done.headers["location"]) == (303, f"/{patient.token}")
    assert "Your appointment is booked Day Tuesday 6 October 2026 Time 9:30am" in words(patient.open())
    assert booked(desk.ledger) == {"A": 1, "B": 0, "C": 0}
    assert "Tuesday 6 October 2026 1 time free" in words(Patient(desk, 3).open())


def test_nothing_is_to_be_had_without_the_date_of_birth(desk: Desk) -> None:
    stranger = desk.browser().client
    for place in ("days", "times/2026-10-06", "cancel", "decline", "appointment.ics"):
        answer = stranger.get(f"/{token()}/{place}")
        assert (answer.status_code, answer.headers["location"]) == (303, f"/{token()}")
    for place in ("confirm", "book", "cancel", "decline"):
        assert stranger.post(f"/{token()}/{place}", data={"slot": "1"}).status_code == 303
    assert booked(desk.ledger) == {"A": 0, "B": 0, "C": 0}
    assert audited(desk.ledger) == []


@pytest.mark.parametrize("form", ["", "9999999999.00", "of another link"])
@pytest.mark.parametrize("place", ["confirm", "book", "cancel", "decline"])
def test_a_form_that_we_did_not_show_does_nothing(desk: Desk, place: str, form: str) -> None:
    patient = Patient(desk)
    patient.book()
    if form == "of another link":
        form = hidden(desk.browser().open(token(3)))
    before = booked(desk.ledger)
    assert patient.post(place, form, slot="2").status_code == 303
    assert booked(desk.ledger) == before


def test_a_page_says_what_was_left_out(desk: Desk) -> None:
    patient = Patient(desk)
    times = patient.open("times/2026-10-06")
    for chosen in ({}, {"slot": ""}, {"slot": "x"}, {"slot": "9" * 30}, {"slot": "99"}):
        again = patient.submit(times, **chosen)
        assert again.status_code == 422
        assert "There is a problem Choose a time" in words(again)
        assert "Choose a time on Tuesday 6 October 2026" in words(again)
        assert re.search(r"<title>\s*Error: ", again.text)


@pytest.mark.parametrize("place", ["times", "times/", "times/tomorrow", "times/2026-10-06/1", "slots"])
def test_a_page_that_there_is_not(desk: Desk, place: str) -> None:
    assert Patient(desk).open(place).status_code == 404


@pytest.mark.parametrize("place", ["confirm", "book", "book/1"])
def test_a_page_that_a_form_led_to_leads_to_the_start_when_a_phone_opens_it_again(desk: Desk, place: str) -> None:
    again = Patient(desk).open(place)
    assert (again.status_code, again.headers["location"]) == (303, f"/{token()}")


def test_a_day_without_free_slots_leads_to_the_others(desk: Desk) -> None:
    page = Patient(desk).open("times/2026-12-24")
    assert "There are no times left on Thursday 24 December 2026" in words(page)


def test_only_slots_that_are_still_to_come_are_offered(desk: Desk) -> None:
    desk.clock.now = TUESDAY
    page = Patient(desk).open()
    assert "Tuesday 6 October 2026 1 time free" in words(page)
    desk.clock.now = TUESDAY + timedelta(days=1, hours=7)
    page = Patient(desk).open()
    assert "There are no appointments left at the moment" in words(page)


def test_somebody_was_quicker(desk: Desk) -> None:
    first, second = Patient(desk, 2), Patient(desk, 3)
    asked = second.choose("Tuesday 6 October 2026", "9:30am")
    times = second.open("times/2026-10-06")
    first.book()
    late = second.submit(asked)
    assert late.status_code == 409
    assert "There is a problem Sorry, that appointment has just been taken" in words(late)
    assert "midday" in words(late)
    assert "9:30am" not in words(late)
    number = re.search(r'value="([0-9]+)" aria', times.text)
    assert number is not None
    assert second.submit(times, slot=number[1]).status_code == 409
    assert booked(desk.ledger) == {"A": 1, "B": 0, "C": 0}


def test_a_time_that_was_changed_before_it_was_confirmed_is_not_booked(desk: Desk) -> None:
    patient = Patient(desk)
    asked = patient.choose("Tuesday 6 October 2026", "9:30am")
    take_in(desk.ledger, replace(SLOTS[0], starts_at=TUESDAY + timedelta(hours=5)), *SLOTS[1:])
    answer = patient.submit(asked)
    assert answer.status_code == 409
    assert "that appointment has just been changed. Choose again" in words(answer)
    assert "2:30pm" in words(answer)
    assert booked(desk.ledger) == {"A": 0, "B": 0, "C": 0}
    assert patient.book(time="2:30pm").status_code == 303


def test_who_goes_back_after_booking_is_not_told_that_it_was_taken(desk: Desk) -> None:
    """The phone's back button sends the form again: the place that was taken is the patient's own."""
    patient = Patient(desk)
    times = patient.open("times/2026-10-06")
    number = re.search(r'for="slot-([0-9]+)">9:30am<', times.text)
    assert number is not None
    patient.submit(patient.submit(times, slot=number[1]))
    again = patient.submit(times, slot=number[1])
    assert (again.status_code, again.headers["location"]) == (303, f"/{token()}")
    assert "Your appointment is booked" in words(patient.open())


def test_the_last_one_of_a_day_was_taken(desk: Desk) -> None:
    first, second = Patient(desk, 2), Patient(desk, 3)
    asked = second.choose("Wednesday 7 October 2026", "4:30pm")
    first.book("Wednesday 7 October 2026", "4:30pm")
    late = second.submit(asked)
    assert "Sorry, that appointment has just been taken" in words(late)
    assert "There are no times left on Wednesday 7 October 2026" in words(late)


def test_a_double_click_books_one(desk: Desk) -> None:
    patient = Patient(desk)
    asked = patient.choose("Tuesday 6 October 2026", "midday")
    assert [patient.submit(asked).status_code for _ in range(2)] == [303, 303]
    assert booked(desk.ledger) == {"A": 0, "B": 1, "C": 0}


def test_a_page_left_open_in_another_window_changes_nothing(desk: Desk) -> None:
    patient = Patient(desk)
    stale = patient.choose("Tuesday 6 October 2026", "midday")
    patient.book()
    assert patient.submit(stale).status_code == 303
    assert "9:30am" in words(patient.open())
    assert booked(desk.ledger) == {"A": 1, "B": 0, "C": 0}


@pytest.mark.slow
def test_200_at_once_over_the_network_have_10_places_between_them(folder: Path) -> None:
    ledger = open_ledger(folder)
    invite(ledger, 200)
    take_in(ledger, replace(SLOTS[0], capacity=10))
    signer, now = Signer(KEYS.sessions), NOW + timedelta(hours=1)

    async def post(client: httpx.AsyncClient, line: int, place: str, **more: str) -> httpx.Response:
        hashed = hash_of(token(line))
        form = {"form": signer.sign("form", hashed, now), "slot": "1", "replacing": "", **more}
        session = {"Cookie": f"{COOKIE}={signer.sign('session', hashed, now)}"}
        return await client.post(f"/{token(line)}/{place}", data=form, headers=session)

    async def everybody(site: str) -> list[int]:
        async with httpx.AsyncClient(base_url=site, timeout=60) as client:
            asked = await post(client, 2, "confirm")
            [shown] = re.findall(r'name="shown" value="([^"]+)"', asked.text)
            answers = await asyncio.gather(*(post(client, line, "book", shown=shown) for line in range(2, 202)))
            return [answer.status_code for answer in answers]

    with served(folder, folder) as site:
        said = asyncio.run(everybody(site))
    assert (said.count(303), said.count(409)) == (10, 190)
    assert booked(ledger) == {"A": 10}
    ledger.close()


# Changing, cancelling, declining


def test_an_appointment_is_changed_and_kept_until_then(desk: Desk) -> None:
    patient = Patient(desk)
    patient.book()
    days = patient.follow(patient.open(), "Change the appointment")
    keeps = "You have an appointment on Tuesday 6 October 2026 at 9:30am. You keep it until you have booked another"
    assert keeps in words(days)
    assert "Tuesday 6 October 2026 1 time free" in words(days)
    asked = patient.choose("Wednesday 7 October 2026", "4:30pm", days)
    assert keeps in words(asked)
    assert "Change to this appointment" in words(asked)
    assert booked(desk.ledger) == {"A": 1, "B": 0, "C": 0}
    assert patient.submit(asked).status_code == 303
    assert "Day Wednesday 7 October 2026 Time 4:30pm (10 minutes) With Dr Grey" in words(patient.open())
    assert booked(desk.ledger) == {"A": 0, "B": 0, "C": 1}


def test_an_appointment_is_cancelled_and_another_booked(desk: Desk) -> None:
    patient = Patient(desk)
    patient.book()
    asked = patient.follow(patient.open(), "Cancel the appointment")
    assert "Do you want to cancel your appointment? Day Tuesday" in words(asked)
    assert [patient.submit(asked).status_code for _ in range(2)] == [303, 303]
    ended = patient.open()
    assert "Your appointment is cancelled" in words(ended)
    assert booked(desk.ledger) == {"A": 0, "B": 0, "C": 0}
    assert patient.open("cancel").status_code == 303
    assert "Choose a day" in words(patient.follow(ended, "Book another appointment"))
    patient.book(time="midday")
    assert patient.submit(asked).status_code == 303
    assert booked(desk.ledger) == {"A": 0, "B": 1, "C": 0}


def test_who_wants_none_says_so_and_may_change_their_mind(desk: Desk) -> None:
    patient = Patient(desk)
    asked = patient.follow(patient.open(), "I do not want an appointment")
    assert "We will tell Riverside &lt;Surgery&gt;" in words(asked)
    assert patient.submit(asked).status_code == 303
    declined = patient.open()
    assert "You have told us that you do not want an appointment" in words(declined)
    assert patient.open("decline").status_code == 303
    assert "Choose a day" in words(patient.follow(declined, "Book an appointment after all"))
    patient.book()
    assert "Your appointment is booked" in words(patient.open())
    assert patient.submit(asked).status_code == 303
    assert "Your appointment is booked" in words(patient.open())


def test_an_appointment_that_has_begun_stays_as_it_was(desk: Desk) -> None:
    patient = Patient(desk)
    patient.book()
    cancel, change = patient.open("cancel"), patient.choose("Tuesday 6 October 2026", "midday")
    desk.clock.now = TUESDAY
    patient = Patient(desk)
    page = patient.open()
    assert "Your appointment Day Tuesday 6 October 2026" in words(page)
    assert "It can no longer be changed here" in words(page)
    assert patient.open("cancel").status_code == 303
    assert (patient.submit(cancel).status_code, patient.submit(change).status_code) == (303, 303)
    assert booked(desk.ledger) == {"A": 1, "B": 0, "C": 0}


def test_who_changes_for_ever_is_sent_to_a_person(desk: Desk) -> None:
    for n in range(MOST_CHOICES):
        assert test_bookings.Patient(desk.ledger).book("AB"[n % 2]) == "done"
    stopped = Patient(desk).book()
    assert stopped.status_code == 409
    assert "You have changed your appointment many times" in words(stopped)
    assert "Please contact Riverside" in words(stopped)


def test_a_revoked_link_books_nothing(desk: Desk) -> None:
    patient = Patient(desk)
    asked = patient.choose("Tuesday 6 October 2026", "midday")
    with desk.ledger.write() as connection:
        links.revoke(connection, BATCH, [2], "Dr Grey", desk.clock.now)
    assert patient.submit(asked).status_code == 404
    assert booked(desk.ledger) == {"A": 0, "B": 0, "C": 0}


# What goes with it


def _calendar(patient: Patient) -> dict[str, str]:
    file = patient.open("appointment.ics")
    assert file.headers["content-type"].startswith("text/calendar")
    assert file.headers["content-disposition"] == 'attachment; filename="appointment.ics"'
    assert "sandbox" in file.headers["content-security-policy"]
    return dict(line.split(":", 1) for line in file.text.replace("\r\n ", "").split("\r\n") if ":" in line)


def test_the_calendar_file_says_what_the_slot_says_and_a_change_takes_its_place(desk: Desk) -> None:
    patient = Patient(desk)
    assert patient.open("appointment.ics").status_code == 303
    patient.book()
    first = _calendar(patient)
    assert (first["DTSTART"], first["DTEND"]) == ("20261006T083000Z", "20261006T084000Z")
    assert (first["LOCATION"], first["DESCRIPTION"]) == ("Room 3", "With Nurse <Brown>")
    assert (first["SUMMARY"], first["SEQUENCE"]) == ("Appointment at Riverside <Surgery>", "0")
    patient.book(time="midday")
    second = _calendar(patient)
    assert (second["UID"], second["SEQUENCE"], second["DTSTART"]) == (first["UID"], "1", "20261006T110000Z")
    assert patient.token not in str(second)
    assert "999" not in str({**second, "UID": "random"})


def test_the_batch_s_document_is_there_too(ledger: Ledger, tmp_path: Any) -> None:
    file = attachment()
    (tmp_path / file["sha256"]).write_bytes(PDF)
    invite(ledger, attachment=file)
    take_in(ledger, *SLOTS)
    patient = Patient(Desk(ledger, tmp_path))
    assert "has also sent you a document: Flu leaflet.pdf (PDF)" in words(patient.open())
    assert patient.open("attachment").content == PDF


def test_nothing_of_a_patient_or_of_what_was_booked_is_logged(desk: Desk) -> None:
    patient = Patient(desk)
    patient.book()
    patient.submit(patient.open("cancel"))
    assert patient.open("days").headers["cache-control"] == "no-store"
    for secret in (patient.token, "2026-10-06", "Brown", "Room", "slot", "9:30"):
        assert secret not in desk.said


def test_a_time_that_comes_twice_is_told_apart(ledger: Ledger, tmp_path: Any) -> None:
    invite(ledger)
    half_past_one = datetime(2026, 10, 25, 0, 30, tzinfo=UTC)
    late = replace(SLOTS[0], id="D", starts_at=half_past_one + timedelta(hours=1))
    take_in(ledger, replace(SLOTS[0], starts_at=half_past_one), late)
    times = Patient(Desk(ledger, tmp_path)).open("times/2026-10-25")
    assert re.findall(r"1:30am \((\w+)\)", words(times)) == ["BST", "GMT"]
