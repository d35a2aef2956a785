import itertools
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from batch_pipeline.errors import Refused
from batch_pipeline.ledger import audit, bookings, links, snapshot
from batch_pipeline.ledger.bookings import Choice, Clinic, Place, Reported, Result
from batch_pipeline.ledger.engine import Ledger
from batch_pipeline.ledger.tables import bookings as table
from batch_pipeline.ledger.tables import slots
from batch_pipeline.rules.links import birth_hash
from batch_pipeline.rules.slots import MOST_CHOICES, Changes, Slot
from batch_pipeline_tests.ledger.given import BATCH, NOW, approve, begin, lines, open_ledger, queue
from batch_pipeline_tests.ledger.test_links import BORN, KEYS, rows, token_hash
from batch_pipeline_tests.ledgers import on_postgresql_slowly

CLINIC = Clinic("riverside", "flu-clinic")
DAY = timedelta(days=1)
_ids = itertools.count()


def new_id() -> str:
    return f"b-{next(_ids)}"


def slot(id_: str, capacity: int = 1, days: float = 3, **more: Any) -> Slot:
    standard = Slot(id_, NOW + days * DAY, 10, "Nurse Brown", "Room 3", capacity)
    return replace(standard, **more)


def take_in(ledger: Ledger, *some: Slot, clinic: Clinic = CLINIC, at: datetime = NOW) -> Changes:
    with ledger.write() as connection:
        return bookings.take_in(
            connection, clinic, {each.id: each for each in some}, "flu-clinic.csv", "sha", at, "submit"
        )


def invite(ledger: Ledger, count: int = 3, batch: str = BATCH, at: datetime = NOW) -> None:
    """A batch whose patients can book, and whose messages went then."""
    recipients = lines(count)
    numbers = [each.line for each in recipients]
    approve(ledger, batch)
    links.write(ledger, batch, "self_book", KEYS, rows(*numbers), NOW)
    queue(ledger, recipients, batch)
    begin(ledger, *numbers, batch=batch, at=at)


def seen(ledger: Ledger, id_: str, clinic: Clinic = CLINIC) -> Place:
    """A slot as a patient sees it now."""
    with ledger.read() as connection:
        return next(each for each in bookings.places(connection, clinic) if each.slot.id == id_)


def chosen(ledger: Ledger, line: int = 2, batch: str = BATCH, clinic: Clinic = CLINIC) -> Choice | None:
    with ledger.read() as connection:
        return bookings.choice(connection, token_hash(line, batch), clinic)


@dataclass
class Patient:
    """Does as a patient does, who sees what was chosen last."""

    ledger: Ledger
    line: int = 2
    batch: str = BATCH
    clinic: Clinic = CLINIC
    now: datetime = NOW + timedelta(hours=1)
    _known: str | None = field(default=None)

    @property
    def hashed(self) -> str:
        return token_hash(self.line, self.batch)

    def had(self) -> str | None:
        last = chosen(self.ledger, self.line, self.batch, self.clinic)
        return last.identifier if last is not None and last.is_booked else None

    def book(self, id_: str, **more: Any) -> Result:
        place = more.get("place") or seen(self.ledger, id_, self.clinic)
        replacing = more.get("replacing", self.had())
        with self.ledger.write() as connection:
            return bookings.book(connection, self.hashed, self.clinic, place, replacing, self.now, new_id)

    def cancel(self, identifier: str | None = None) -> Result:
        with self.ledger.write() as connection:
            return bookings.cancel(connection, self.hashed, self.clinic, identifier or self.had() or "none", self.now)

    def decline(self) -> Result:
        with self.ledger.write() as connection:
            return bookings.decline(connection, self.hashed, self.clinic, self.now, new_id)

    @property
    def has(self) -> str | None:
        """The id of the slot that is booked."""
        last = chosen(self.ledger, self.line, self.batch, self.clinic)
        return last.place.slot.id if last is not None and last.is_booked and last.place is not None else None


def booked(ledger: Ledger) -> dict[str, int]:
    with ledger.read() as connection:
        return {row.slot: row.booked for row in connection.execute(sa.select(slots.c.slot, slots.c.booked))}


def audited(ledger: Ledger, batch: str | None = BATCH) -> list[tuple[str, str, Any]]:
    with ledger.read() as connection:
        every = audit.entries(connection)
    usual = ("submit", "review", "approve")
    return [(e.who, e.action, e.detail) for e in every if e.batch == batch and e.action not in usual]


def sound(ledger: Ledger) -> None:
    """The counters are the bookings, nobody has two, and no slot has more than it holds."""
    with ledger.read() as connection:
        still_open = table.c.ended_at.is_(None)
        counted = sa.select(sa.func.count()).where(table.c.slot == slots.c.id, still_open).scalar_subquery()
        wrong = sa.select(slots.c.slot, slots.c.booked, counted, slots.c.capacity).where(
            sa.or_(slots.c.booked != counted, slots.c.booked > slots.c.capacity)
        )
        assert connection.execute(wrong).all() == []
        twice = (
            sa.select(table.c.patient).where(still_open).group_by(table.c.workspace, table.c.booking, table.c.patient)
        )
        assert connection.execute(twice.having(sa.func.count() > 1)).all() == []


# Taking slots in


def test_slots_are_taken_in_once_and_the_same_again_changes_nothing(ledger: Ledger) -> None:
    some = (slot("A", 2), slot("B", days=1))
    assert take_in(ledger, *some) == Changes(some, (), (), ())
    assert take_in(ledger, *some) == Changes((), (), (), ())
    with ledger.read() as connection:
        assert [each.slot for each in bookings.free(connection, CLINIC, NOW)] == [some[1], some[0]]
        assert bookings.free(connection, Clinic("riverside", "another"), NOW) == []
        assert bookings.free(connection, Clinic("hillside", "flu-clinic"), NOW) == []
    counted = {"new": 2, "altered": 0, "removed": 0}
    said = {"workspace": "riverside", "booking": "flu-clinic", "sha256": "sha", **counted}
    assert audited(ledger, None) == [("submit", "slots", said)]


def test_a_new_file_adds_raises_shrinks_and_takes_out_and_no_booking_is_lost(ledger: Ledger) -> None:
    invite(ledger)
    take_in(ledger, slot("A", 2), slot("B"), slot("C"))
    assert [Patient(ledger, line).book("A") for line in (2, 3)] == ["done", "done"]
    assert Patient(ledger, 4).book("B") == "done"
    changed = take_in(ledger, slot("A", 1), slot("C", 5), slot("D"))
    assert [each.id for each in changed.new] == ["D"]
    assert [each.id for each in changed.altered] == ["A", "C"]
    assert changed.removed == ("B",)
    assert changed.keep_bookings == (("B", 0, 1), ("A", 1, 2))
    assert (Patient(ledger, 2).has, Patient(ledger, 3).has, Patient(ledger, 4).has) == ("A", "A", "B")
    assert Patient(ledger, 3).cancel() == "done"
    with ledger.read() as connection:
        assert [each.slot.id for each in bookings.free(connection, CLINIC, NOW)] == ["C", "D"]
    assert Patient(ledger, 3).book("A") == "taken"
    assert Patient(ledger, 3).book("B") == "taken"
    assert take_in(ledger, slot("A", 1), slot("B", 2), slot("C", 5), slot("D")).altered == (slot("B", 2),)
    assert Patient(ledger, 3).book("B") == "done"
    sound(ledger)


@pytest.mark.parametrize(
    "changed",
    [{"starts_at": NOW + DAY}, {"minutes": 20}, {"place": "Room 4"}, {"clinician": None}],
    ids=["start", "minutes", "place", "clinician"],
)
def test_what_a_patient_was_told_of_a_slot_stays_true(ledger: Ledger, changed: dict[str, Any]) -> None:
    take_in(ledger, slot("A"))
    otherwise = slot("A", **changed)
    assert take_in(ledger, otherwise).altered == (otherwise,)
    invite(ledger)
    Patient(ledger).book("A")
    Patient(ledger).cancel()
    with pytest.raises(Refused, match=r'flu-clinic\.csv, line 7: slot "A" has been booked with another start'):
        take_in(ledger, slot("A", line=7))
    assert chosen(ledger).place.slot == otherwise  # type: ignore[union-attr]


# Booking


def test_a_slot_is_booked_once_and_a_double_click_books_nothing_more(ledger: Ledger) -> None:
    invite(ledger)
    take_in(ledger, slot("A", 3), slot("B"))
    patient = Patient(ledger)
    assert chosen(ledger) is None
    assert [patient.book("A", replacing=None) for _ in range(2)] == ["done", "done"]
    assert patient.book("B", replacing=None) == "otherwise"
    last = chosen(ledger)
    assert last is not None
    assert (last.is_booked, last.is_declined, last.made_at, last.number) == (True, False, patient.now, 1)
    assert last.place is not None
    assert (last.place.slot, last.place.free) == (slot("A", 3), 2)
    assert audited(ledger) == [("patient", "book", {"line": 2, "slot": last.place.number})]
    assert booked(ledger) == {"A": 1, "B": 0}


def test_somebody_was_quicker(ledger: Ledger) -> None:
    invite(ledger)
    take_in(ledger, slot("A"))
    assert Patient(ledger, 2).book("A") == "done"
    assert Patient(ledger, 3).book("A") == "taken"
    assert chosen(ledger, 3) is None
    Patient(ledger, 2).cancel()
    assert Patient(ledger, 3).book("A") == "done"


@pytest.mark.parametrize(
    "changed", [{"starts_at": NOW + DAY}, {"minutes": 20}, {"place": None}, {"clinician": "Dr Grey"}, {"capacity": 2}]
)
def test_a_slot_that_has_changed_since_the_patient_saw_it_is_not_booked(
    ledger: Ledger, changed: dict[str, Any]
) -> None:
    """But for its places: a file may be taken in between the page that asks for confirmation and the answer to it."""
    invite(ledger)
    take_in(ledger, slot("A"), slot("B", clinician=None))
    as_it_was = seen(ledger, "A")
    take_in(ledger, slot("A", **changed), slot("B", clinician=None))
    assert Patient(ledger, 3).book("B") == "done"
    patient = Patient(ledger)
    assert patient.book("A", place=as_it_was) == ("done" if "capacity" in changed else "taken")
    assert patient.book("A") == "done"
    sound(ledger)


def test_capacity_holds_across_batches_that_name_the_same_slots(ledger: Ledger) -> None:
    invite(ledger, 6)
    invite(ledger, 6, batch="reminder")
    take_in(ledger, slot("A", 3))
    everybody = [Patient(ledger, line, (BATCH, "reminder")[line % 2]) for line in range(2, 8)]
    assert [each.book("A") for each in everybody] == ["done"] * 3 + ["taken"] * 3
    sound(ledger)


def test_who_booked_by_one_link_has_that_appointment_by_another_and_no_second_one(ledger: Ledger) -> None:
    """Such as that of a reminder. What was booked belongs to the batch by whose link it was."""
    invite(ledger)
    invite(ledger, batch="reminder")
    take_in(ledger, slot("A", 3), slot("B", 3))
    first, second = Patient(ledger, 2), Patient(ledger, 2, "reminder")
    first.book("A")
    assert (second.has, second.book("B", replacing=None), second.decline()) == ("A", "otherwise", "otherwise")
    assert second.book("B") == "done"
    assert (first.has, second.has) == ("B", "B")
    assert first.cancel() == "done"
    assert (first.has, second.has) == (None, None)
    assert [(row.batch, row.ended_because) for row in _choices(ledger)] == [
        (BATCH, "changed"),
        ("reminder", "cancelled"),
    ]
    with ledger.read() as connection:
        assert bookings.unreported(connection) == [BATCH, "reminder"]
    sound(ledger)


def test_who_is_invited_anew_after_an_appointment_can_book_another(ledger: Ledger) -> None:
    """A clinic's file goes on for years. An appointment that had begun when a message went is no answer to that."""
    invite(ledger)
    take_in(ledger, slot("A", 3, days=1), slot("B", 3, days=9), slot("C", 3, days=9))
    before = Patient(ledger, 2)
    before.book("A")
    attended = before.had()
    invite(ledger, batch="next", at=NOW + 2 * DAY)
    anew = Patient(ledger, 2, "next", now=NOW + 3 * DAY)
    assert chosen(ledger, batch="next") is None
    assert (before.has, answers(ledger, BATCH), answers(ledger, "next")) == ("A", "booked A", "none")
    assert anew.cancel(attended) == "otherwise"
    assert [anew.book("B"), anew.book("B", replacing=None)] == ["done", "done"]
    last = chosen(ledger, batch="next")
    assert last is not None
    assert (last.number, last.calendar_id == attended) == (1, False)
    assert (before.has, anew.has) == ("B", "B")
    assert anew.book("C") == "done"
    assert (answers(ledger, BATCH), answers(ledger, "next")) == ("booked A", "booked C")
    assert booked(ledger) == {"A": 1, "B": 0, "C": 1}
    assert [row.ended_because for row in _choices(ledger)] == ["over", "changed", None]
    invite(ledger, batch="third", at=NOW + 9 * DAY)
    assert chosen(ledger, batch="third") is None
    assert [answers(ledger, batch) for batch in (BATCH, "next", "third")] == ["booked A", "booked C", "none"]


def test_who_is_invited_anew_after_an_appointment_may_want_none(ledger: Ledger) -> None:
    invite(ledger)
    take_in(ledger, slot("A", days=1), slot("B"))
    for _ in range(2):
        Patient(ledger, 2).cancel()
        Patient(ledger, 2).book("A")
    invite(ledger, batch="next", at=NOW + 2 * DAY)
    assert (chosen(ledger, batch="next"), answers(ledger, "next")) == (None, "none")
    anew = Patient(ledger, 2, "next", now=NOW + 3 * DAY)
    assert anew.decline() == "done"
    assert (answers(ledger, BATCH), answers(ledger, "next")) == ("booked A", "declined")
    assert booked(ledger) == {"A": 1, "B": 0}


def answers(ledger: Ledger, batch: str) -> str:
    """What the batch's report says of the patient on line 2."""
    with ledger.read() as connection:
        [row] = [
            row
            for some in snapshot.read_bookings(connection, batch, *CLINIC)
            for row in some.to_pylist()
            if row["line"] == 2
        ]
    assert (row["answer"] == "booked") == (row["starts_at"] is not None and row["ended_at"] is None)
    return " ".join(filter(None, (row["answer"], row["slot"])))


def test_slots_of_another_clinic_are_not_to_be_had(ledger: Ledger) -> None:
    invite(ledger)
    take_in(ledger, slot("A"), clinic=Clinic("riverside", "another"))
    take_in(ledger, slot("A"), clinic=Clinic("hillside", "flu-clinic"))
    for clinic in (Clinic("riverside", "another"), Clinic("hillside", "flu-clinic")):
        wrong = seen(ledger, "A", clinic)
        with ledger.write() as connection:
            said = bookings.book(connection, token_hash(2), CLINIC, wrong, None, NOW, new_id)
        assert said == "taken"


def test_a_slot_that_has_begun_is_neither_booked_nor_changed_nor_cancelled(ledger: Ledger) -> None:
    invite(ledger)
    take_in(ledger, slot("A", 5, days=1), slot("B", 5))
    early, late = Patient(ledger, 2), Patient(ledger, 3, now=NOW + DAY)
    assert early.book("A") == "done"
    assert late.book("A") == "taken"
    early.now = NOW + DAY
    assert (early.book("B"), early.cancel(), early.decline()) == ("otherwise", "otherwise", "otherwise")
    assert early.has == "A"


def test_a_link_that_opens_no_more_books_nothing(ledger: Ledger) -> None:
    invite(ledger, 4)
    take_in(ledger, slot("A", 9, days=30))
    with ledger.write() as connection:
        links.revoke(connection, BATCH, [2], "Dr Grey", NOW)
        for _ in range(5):
            links.try_date(connection, token_hash(3), birth_hash(KEYS, "", BORN), "a" * 32, NOW)
    for patient in (Patient(ledger, 2), Patient(ledger, 3), Patient(ledger, 4, now=NOW + 7 * DAY)):
        assert (patient.book("A"), patient.cancel("b"), patient.decline()) == ("gone", "gone", "gone")
    assert Patient(ledger, 5, now=NOW + 7 * DAY - timedelta(seconds=1)).book("A") == "done"


# Changing, cancelling, declining


def test_the_new_place_is_had_before_the_old_one_is_given_back(ledger: Ledger) -> None:
    invite(ledger)
    take_in(ledger, slot("A"), slot("B"), slot("C"))
    patient = Patient(ledger)
    patient.book("A")
    Patient(ledger, 3).book("B")
    assert patient.book("B") == "taken"
    assert patient.has == "A"
    first = patient.had()
    assert patient.book("C") == "done"
    assert patient.book("A", replacing=first) == "otherwise"
    assert patient.has == "C"
    assert booked(ledger) == {"A": 0, "B": 1, "C": 1}
    last = chosen(ledger)
    assert last is not None
    assert (last.calendar_id, last.number) == (first, 2)
    [old] = [row for row in _choices(ledger) if row.identifier == first]
    assert (old.ended_at, old.ended_because) == (patient.now, "changed")
    assert [action for _, action, _ in audited(ledger)] == ["book", "book", "change_booking"]


def _choices(ledger: Ledger) -> Sequence[sa.Row[Any]]:
    with ledger.read() as connection:
        return connection.execute(sa.select(table).order_by(table.c.id)).all()


def test_a_cancelled_booking_gives_its_place_back_once(ledger: Ledger) -> None:
    invite(ledger)
    take_in(ledger, slot("A", 2))
    patient = Patient(ledger)
    patient.book("A")
    Patient(ledger, 3).book("A")
    identifier = patient.had()
    assert [patient.cancel(identifier) for _ in range(2)] == ["done", "done"]
    assert booked(ledger) == {"A": 1}
    last = chosen(ledger)
    assert last is not None
    assert (last.is_booked, last.ended_at) == (False, patient.now)
    assert Patient(ledger, 3).cancel(identifier) == "otherwise"
    assert patient.decline() == "done"


def test_who_declined_can_book_all_the_same(ledger: Ledger) -> None:
    invite(ledger)
    take_in(ledger, slot("A"))
    patient = Patient(ledger)
    assert [patient.decline() for _ in range(2)] == ["done", "done"]
    last = chosen(ledger)
    assert last is not None
    assert (last.is_declined, last.is_booked, last.place) == (True, False, None)
    assert patient.book("A") == "done"
    assert patient.decline() == "otherwise"
    assert [row.ended_because for row in _choices(ledger)] == ["booked", None]
    assert [action for _, action, _ in audited(ledger)] == ["decline_booking", "book"]
    assert not any("999" in str(cell) or "Brown" in str(cell) for entry in audited(ledger) for cell in entry)


def test_who_changes_for_ever_is_stopped_and_keeps_what_was_booked(ledger: Ledger) -> None:
    invite(ledger)
    take_in(ledger, slot("A"), slot("B"))
    patient = Patient(ledger)
    said = [patient.book("AB"[n % 2]) for n in range(MOST_CHOICES + 1)]
    assert said == ["done"] * MOST_CHOICES + ["too_often"]
    assert patient.has is not None
    assert patient.cancel() == "done"


# Reporting


def due(ledger: Ledger) -> list[str]:
    with ledger.read() as connection:
        return bookings.unreported(connection)


def reported(ledger: Ledger) -> Reported:
    with ledger.read() as connection:
        return bookings.reported(connection, BATCH)


def note(ledger: Ledger, made_of: Reported) -> None:
    with ledger.write() as connection:
        bookings.mark_reported(connection, BATCH, made_of)


def test_a_report_is_due_until_it_has_every_change(ledger: Ledger) -> None:
    invite(ledger)
    take_in(ledger, slot("A"))
    note(ledger, reported(ledger))
    assert due(ledger) == []
    Patient(ledger).book("A")
    assert due(ledger) == [BATCH]
    note(ledger, reported(ledger))
    assert due(ledger) == []
    Patient(ledger).cancel()
    assert due(ledger) == [BATCH]
    assert reported(ledger) == Reported(changes=2, before=1)
    for _ in range(2):
        note(ledger, reported(ledger))
        assert due(ledger) == []


@pytest.mark.parametrize("last", ["older", "newer"])
@pytest.mark.parametrize("first", [True, False], ids=["the first", "later ones"])
def test_of_two_reports_at_once_neither_is_taken_for_the_last(ledger: Ledger, last: str, first: bool) -> None:
    """Nobody knows whose file was written last: a booking that is in one of them alone must not be lost by that."""
    invite(ledger)
    take_in(ledger, slot("A"))
    Patient(ledger).book("A")
    if not first:
        note(ledger, reported(ledger))
        Patient(ledger).cancel()
    older = reported(ledger)
    Patient(ledger).cancel() if first else Patient(ledger).book("A")
    newer = reported(ledger)
    for each in (newer, older) if last == "older" else (older, newer):
        note(ledger, each)
    assert due(ledger) == [BATCH]
    note(ledger, reported(ledger))
    assert due(ledger) == []


# Many at once


def test_200_at_once_have_10_places_between_them(folder: Path) -> None:
    ledger = open_ledger(folder)
    invite(ledger, 200)
    take_in(ledger, slot("A", 10))
    place = seen(ledger, "A")

    def one(line: int) -> Result:
        with ledger.write() as connection:
            return bookings.book(connection, token_hash(line), CLINIC, place, None, NOW, new_id)

    with ThreadPoolExecutor(24) as pool:
        said = list(pool.map(one, range(2, 202)))
    assert (said.count("done"), said.count("taken")) == (10, 190)
    assert booked(ledger) == {"A": 10}
    sound(ledger)
    ledger.close()


def test_one_patient_who_asks_for_many_at_once_has_one(folder: Path) -> None:
    ledger = open_ledger(folder)
    invite(ledger)
    take_in(ledger, *(slot(f"S{n}") for n in range(12)))
    places = [seen(ledger, f"S{n}") for n in range(12)]

    def one(place: Place) -> Result:
        with ledger.write() as connection:
            return bookings.book(connection, token_hash(2), CLINIC, place, None, NOW, new_id)

    with ThreadPoolExecutor(12) as pool:
        said = list(pool.map(one, places))
    assert (said.count("done"), said.count("otherwise")) == (1, 11)
    sound(ledger)
    ledger.close()


def test_one_patient_with_two_links_has_one_place(folder: Path) -> None:
    ledger = open_ledger(folder)
    invite(ledger)
    invite(ledger, batch="reminder")
    take_in(ledger, slot("A", 9), slot("B", 9))
    places = [seen(ledger, id_) for id_ in "AB"]

    def one(n: int) -> Result:
        with ledger.write() as connection:
            hashed = token_hash(2, (BATCH, "reminder")[n % 2])
            return bookings.book(connection, hashed, CLINIC, places[n % 2], None, NOW, new_id)

    with ThreadPoolExecutor(8) as pool:
        said = list(pool.map(one, range(8)))
    assert (said.count("done"), said.count("otherwise")) == (4, 4)
    sound(ledger)
    ledger.close()


def test_two_who_change_places_do_not_wait_for_each_other_for_ever(folder: Path) -> None:
    """Each takes what the other gives back: slots are locked in one order, whichever of them is wanted."""
    ledger = open_ledger(folder)
    invite(ledger)
    take_in(ledger, slot("A", 2), slot("B", 2))
    pair = Patient(ledger, 2), Patient(ledger, 3)
    assert [each.book(id_) for each, id_ in zip(pair, "AB", strict=True)] == ["done", "done"]
    with ThreadPoolExecutor(2) as pool:
        for n in range(12):
            assert list(pool.map(Patient.book, pair, ("BA", "AB")[n % 2])) == ["done", "done"]
    assert (pair[0].has, pair[1].has) == ("A", "B")
    sound(ledger)
    ledger.close()


def test_revoking_and_booking_at_once_wait_for_each_other(folder: Path) -> None:
    """A link has its life and its booking in one order on all sides: neither is ended by the database."""
    ledger = open_ledger(folder)
    invite(ledger, 40)
    take_in(ledger, slot("A", 100))
    place = seen(ledger, "A")

    def one(line: int) -> Result:
        with ledger.write() as connection:
            return bookings.book(connection, token_hash(line), CLINIC, place, None, NOW, new_id)

    def revoke(line: int) -> None:
        with ledger.write() as connection:
            links.revoke(connection, BATCH, [line], "Dr Grey", NOW)

    with ThreadPoolExecutor(8) as pool:
        booking = [pool.submit(one, line) for line in range(2, 42)]
        revoking = [pool.submit(revoke, line) for line in range(41, 1, -1)]
    said = [each.result() for each in booking]
    assert [each.result() for each in revoking] == [None] * 40
    assert set(said) <= {"done", "gone"}
    assert booked(ledger) == {"A": said.count("done")}
    ledger.close()


@pytest.fixture(scope="module")
def busy(new_folder_of_module: Callable[[], Path]) -> Iterator[Ledger]:
    opened = open_ledger(new_folder_of_module())
    invite(opened, 400)
    yield opened
    opened.close()


_examples = itertools.count()
STEPS = st.lists(
    st.tuples(
        st.integers(0, 3),  # which patient
        st.sampled_from(["book", "book", "book", "cancel", "decline", "file"]),
        st.sampled_from("ABC"),
        st.integers(1, 2),
    ),
    max_size=8,
)


@on_postgresql_slowly
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=STEPS)
def test_whatever_patients_do_no_slot_is_over_its_capacity_and_nobody_has_two(
    busy: Ledger, steps: list[tuple[int, str, str, int]]
) -> None:
    """Unless a file makes a slot smaller than it is booked: then nobody else gets in."""
    example = next(_examples)
    clinic = Clinic("riverside", f"clinic-{example}")
    capacity = {"A": 1, "B": 2, "C": 1}
    take_in(busy, *(slot(id_, n) for id_, n in capacity.items()), clinic=clinic)
    patients = [Patient(busy, 2 + (example * 4 + n) % 400, clinic=clinic) for n in range(4)]
    has: dict[int, str | None] = {n: patient.has for n, patient in enumerate(patients)}
    for who, what, id_, many in steps:
        patient = patients[who]
        held = sum(slot_id == id_ for slot_id in has.values())
        if what == "book":
            said = patient.book(id_)
            if has[who] == id_:
                assert said == "done"
            else:
                assert said == ("done" if held < capacity[id_] else "taken")
                has[who] = id_ if said == "done" else has[who]
        elif what == "cancel":
            assert patient.cancel() == ("done" if has[who] else "otherwise")
            has[who] = None
        elif what == "decline":
            assert patient.decline() == ("otherwise" if has[who] else "done")
        else:
            capacity[id_] = many
            take_in(busy, *(slot(each, n) for each, n in capacity.items()), clinic=clinic)
        assert [patient.has for patient in patients] == list(has.values())
        with busy.read() as connection:
            found = {each.slot.id: each.booked for each in bookings.places(connection, clinic)}
        assert found == {each: list(has.values()).count(each) for each in capacity}
