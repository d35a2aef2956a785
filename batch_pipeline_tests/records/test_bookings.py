"""Appointments in the record: which entries there are, when, what stands in them, and each once."""

import json
from collections import Counter
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from batch_pipeline.ledger import booking_entries, links, records
from batch_pipeline.ledger.engine import Ledger
from batch_pipeline.records.appointment import Because, Booking, appointment
from batch_pipeline.records.bookings import Bookings
from batch_pipeline.records.fhir_server import FhirServer
from batch_pipeline.records.folder import RecordFolder
from batch_pipeline.records.pace import Pace
from batch_pipeline.records.saving import Run, Saved
from batch_pipeline.records.validity import check
from batch_pipeline.records.writer import Writer
from batch_pipeline_tests.ledger.given import BATCH, NOW, nhs_number, set_attempts
from batch_pipeline_tests.ledger.test_bookings import DAY, Patient, invite, slot, take_in
from batch_pipeline_tests.ledgers import on_sqlite_alone
from batch_pipeline_tests.records.fhir_double import FhirDouble
from batch_pipeline_tests.records.worlds import SENDER

SOON, WEEK = NOW + timedelta(hours=2), timedelta(days=7)
DECLINED = "1324681000000101"
A = slot("A", 9)


def save(ledger: Ledger, writer: Writer, at: Any = SOON) -> Saved:
    run = Run(ledger, BATCH, Bookings(SENDER, DECLINED), writer, lambda: at, "a test")
    return run.save()


def written(root: Path) -> list[dict[str, Any]]:
    files = sorted(root.rglob("*.ndjson"), key=lambda path: path.name)
    return [json.loads(line) for path in files for line in path.read_text().splitlines()]


def value(resource: dict[str, Any]) -> str:
    return resource["identifier"][0]["value"]


# What stands in them


@pytest.mark.parametrize(
    ("because", "tells_of", "status", "reason"),
    [
        (None, None, "booked", None),
        ("cancelled", "b-1", "cancelled", "Cancelled by the patient"),
        ("changed", "b-1", "cancelled", "Changed by the patient to another appointment"),
    ],
)
def test_an_appointment_is_valid_and_says_what_the_slot_says(
    because: Because | None, tells_of: str | None, status: str, reason: str | None
) -> None:
    made = appointment(SENDER, Booking("b-2", nhs_number(2), A, NOW, because, tells_of))
    check(made)
    assert (made["status"], made.get("cancelationReason", {}).get("text")) == (status, reason)
    assert (made["start"], made["end"]) == ("2026-10-04T09:00:00.000+00:00", "2026-10-04T09:10:00.000+00:00")
    assert (made["minutesDuration"], made["created"]) == (10, "2026-10-01T09:00:00.000+00:00")
    assert made["identifier"][0]["assigner"]["identifier"]["value"] == "A99999"
    patient, clinician, place = made["participant"]
    assert patient["actor"]["identifier"] == {"system": "https://fhir.nhs.uk/Id/nhs-number", "value": nhs_number(2)}
    assert patient["status"] == ("accepted" if because is None else "declined")
    assert (clinician["actor"]["display"], place["actor"]["display"]) == ("Nurse Brown", "Room 3")
    assert [each["identifier"]["value"] for each in made.get("supportingInformation", [])] == (
        [tells_of] if tells_of else []
    )


@pytest.mark.parametrize(
    ("code", "coding"),
    [
        (DECLINED, {"system": "http://snomed.info/sct", "code": DECLINED}),
        (
            None,
            {
                "system": "http://terminology.hl7.org/CodeSystem/appointment-cancellation-reason",
                "code": "pat",
                "display": "Patient",
            },
        ),
    ],
)
def test_declining_has_no_time_and_the_batch_s_code(code: str | None, coding: dict[str, str]) -> None:
    made = appointment(SENDER, Booking("b-1", nhs_number(2), None, NOW, "declined", decline_code=code))
    check(made)
    assert (made["status"], made["cancelationReason"]["coding"]) == ("cancelled", [coding])
    assert not {"start", "end", "minutesDuration"} & made.keys()
    assert [each["status"] for each in made["participant"]] == ["declined"]


# When, and each once


def test_a_booking_is_saved_at_once_and_its_end_after_it(ledger: Ledger, tmp_path: Path) -> None:
    invite(ledger)
    take_in(ledger, A, slot("B"))
    patient, folder = Patient(ledger), RecordFolder(tmp_path)
    patient.book("A")
    first = patient.had()
    assert (save(ledger, folder).written, save(ledger, folder).written) == (1, 0)
    patient.book("B")
    second = patient.had()
    assert save(ledger, folder).written == 2
    patient.cancel()
    assert (save(ledger, folder).written, save(ledger, folder).written) == (1, 0)
    told = {value(each): (each["status"], each.get("cancelationReason", {}).get("text")) for each in written(tmp_path)}
    assert told == {
        first: ("booked", None),
        f"{first}:ended": ("cancelled", "Changed by the patient to another appointment"),
        second: ("booked", None),
        f"{second}:ended": ("cancelled", "Cancelled by the patient"),
    }
    assert len(written(tmp_path)) == 4


@pytest.mark.parametrize("saved_before", [True, False])
def test_an_appointment_that_is_over_stays_in_the_record_when_another_is_booked(
    ledger: Ledger, tmp_path: Path, saved_before: bool
) -> None:
    invite(ledger)
    take_in(ledger, slot("A", days=1), slot("B", days=9))
    first, folder = Patient(ledger), RecordFolder(tmp_path)
    first.book("A")
    attended = first.had()
    if saved_before:
        save(ledger, folder)
    invite(ledger, batch="next", at=NOW + 2 * DAY)
    assert Patient(ledger, batch="next", now=NOW + 3 * DAY).book("B") == "done"
    save(ledger, folder, NOW + 3 * DAY)
    assert [(value(each), each["status"]) for each in written(tmp_path)] == [(attended, "booked")]


def test_what_ended_before_anybody_wrote_it_is_not_in_the_record(ledger: Ledger, tmp_path: Path) -> None:
    invite(ledger)
    take_in(ledger, A, slot("B"))
    patient = Patient(ledger)
    patient.book("A")
    patient.book("B")
    last = patient.had()
    assert save(ledger, RecordFolder(tmp_path)).written == 1
    assert [value(each) for each in written(tmp_path)] == [last]


def test_declining_is_saved_when_it_can_not_be_taken_back(ledger: Ledger, tmp_path: Path) -> None:
    invite(ledger)
    take_in(ledger, slot("A", 9, days=5))
    for line in (2, 3, 4):
        Patient(ledger, line).decline()
    Patient(ledger, 3).book("A")
    folder = RecordFolder(tmp_path)
    with ledger.write() as connection:
        links.revoke(connection, BATCH, [4], "Dr Grey", NOW)
    assert save(ledger, folder, NOW + WEEK - timedelta(seconds=1)).written == 2
    assert sorted(each["status"] for each in written(tmp_path)) == ["booked", "cancelled"]
    assert save(ledger, folder, NOW + WEEK).written == 1
    [late] = [
        each for each in written(tmp_path) if each["participant"][0]["actor"]["identifier"]["value"] == nhs_number(2)
    ]
    assert late["cancelationReason"]["coding"][0]["code"] == DECLINED


def test_a_batch_is_due_for_its_bookings_alone(ledger: Ledger, tmp_path: Path) -> None:
    def due() -> set[str]:
        with ledger.read() as connection:
            return booking_entries.with_entries_due(connection, SOON)

    invite(ledger)
    take_in(ledger, A)
    assert due() == set()
    Patient(ledger).book("A")
    assert due() == {BATCH}
    save(ledger, RecordFolder(tmp_path))
    assert due() == set()
    with ledger.read() as connection:
        assert records.saved(connection, BATCH) == (0, 0, 0)
        assert records.that_save(connection, {BATCH, "another"}) == [BATCH]


def test_a_patient_whose_details_were_purged_is_refused(ledger: Ledger, tmp_path: Path) -> None:
    invite(ledger)
    take_in(ledger, A)
    Patient(ledger).book("A")
    set_attempts(ledger, {"nhs_number": None}, line=2)
    assert save(ledger, RecordFolder(tmp_path)).refused == 1
    assert written(tmp_path) == []


class Dies(Exception):
    """In place of a process that is killed."""


class Dying(RecordFolder):
    """Writes, and dies before that is noted; or before it writes."""

    after: bool = True

    def write(self, chunk: str, entries: Any, still_ours: Any) -> Any:
        if self.after:
            list(super().write(chunk, entries, still_ours))
        raise Dies


@pytest.mark.parametrize("after", [True, False], ids=["after it was written", "before"])
def test_a_run_that_died_is_finished_and_nothing_is_written_twice(ledger: Ledger, tmp_path: Path, after: bool) -> None:
    """Also where the patient has cancelled meanwhile: what was claimed as booked is told as booked, and then its end."""
    invite(ledger)
    take_in(ledger, A)
    patient = Patient(ledger)
    patient.book("A")
    identifier = patient.had()
    dying = Dying(tmp_path)
    dying.after = after
    with pytest.raises(Dies):
        save(ledger, dying)
    patient.cancel()
    later = Run(
        ledger, BATCH, Bookings(SENDER, None), RecordFolder(tmp_path), lambda: SOON, "b",
        wall=lambda: NOW + timedelta(days=10_000),
    )  # fmt: skip
    later.save()
    assert Counter(map(value, written(tmp_path))) == {str(identifier): 1, f"{identifier}:ended": 1}
    assert [each["status"] for each in written(tmp_path) if value(each) == identifier] == ["booked"]


@on_sqlite_alone
def test_a_server_gets_each_once_and_has_to_say_that_it_can(ledger: Ledger) -> None:
    invite(ledger)
    take_in(ledger, A)
    patient = Patient(ledger)
    patient.book("A")
    with FhirDouble() as double:
        pace = Pace(ledger, "record:test", 60_000)
        server = FhirServer(double.by_token(), pace, timedelta(seconds=30))
        assert save(ledger, server).written == 1
        patient.cancel()
        assert save(ledger, server).written == 1
        server.close()
    assert [each["status"] for each in double.created] == ["booked", "cancelled"]
    assert double.failures == []
