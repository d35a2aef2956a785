"""Slots that patients book by themselves: taken in from a file, booked, changed, cancelled, declined (SPEC 2.12).

A slot is known by workspace, booking and its id in the file, so that all batches which name it share its places. How many
of them are booked stands beside it: a place is had by adding one to that where there is one left, in the transaction that
writes the booking. So no slot gets more than it holds, whoever asks at the same time.

A patient has one choice at a time of a clinic's slots, by whichever batch's link it was made. An appointment that had begun
when a link's message went is no choice of that link's: the patient is invited to another. Each of a patient's requests
has the link, and what the patient chooses of the clinic, to itself; then slots are locked, in the order of their numbers.
Nothing of the batch is: whoever revokes its links has it, and waits for the link.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, NamedTuple

import sqlalchemy as sa

from batch_pipeline.errors import Refused
from batch_pipeline.ledger import audit, links
from batch_pipeline.ledger.dialects import insert, queue_for
from batch_pipeline.ledger.tables import (
    OPEN_BOOKING,
    OVER,
    Instant,
    attempts,
    batches,
    booking_reports,
    bookings,
    slots,
)
from batch_pipeline.ledger.tables import links as links_table
from batch_pipeline.rules import slots as rules
from batch_pipeline.rules.slots import Changes, Known, Slot

Result = Literal["done", "taken", "otherwise", "too_often", "gone"]
"""What a patient's request came to. ``taken``: somebody was quicker, or the slot has begun, or is offered no more, or not as
it was shown.
``otherwise``: the patient has chosen something else meanwhile, in another window; nothing was changed."""

PATIENT = "patient"
"""Who did it, in the audit; which one, the line says."""


class Clinic(NamedTuple):
    """Whose slots: a file's, of a workspace."""

    workspace: str
    booking: str


@dataclass(frozen=True, slots=True)
class Place:
    """A slot as patients see it."""

    number: int
    slot: Slot
    booked: int
    removed_at: datetime | None

    @property
    def free(self) -> int:
        """How many may still book it, if it is to come."""
        return 0 if self.removed_at is not None else max(0, self.slot.capacity - self.booked)


@dataclass(frozen=True, slots=True)
class Choice:
    """What a patient chose last."""

    identifier: str
    place: Place | None
    """``None``: the patient declined."""
    made_at: datetime
    ended_at: datetime | None
    calendar_id: str
    """The identifier of the patient's first booking: a calendar takes the later ones for changes of it."""
    number: int
    """How many choices it makes, from 1 on."""

    @property
    def is_booked(self) -> bool:
        """Whether there is an appointment."""
        return self.place is not None and self.ended_at is None

    @property
    def is_declined(self) -> bool:
        """Whether the patient wants none."""
        return self.place is None and self.ended_at is None


class _Whose(NamedTuple):
    batch: str
    patient: str
    line: int


# Slots ---------------------------------------------------------------------------------------------------------------

_SLOT = (
    *(slots.c.id, slots.c.slot, slots.c.starts_at, slots.c.minutes, slots.c.clinician, slots.c.place),
    *(slots.c.capacity, slots.c.booked, slots.c.removed_at),
)


def _place(row: sa.Row[*tuple[Any, ...]]) -> Place:
    number, id_, starts_at, minutes, clinician, place, capacity, booked, removed_at = row[:9]
    return Place(number, Slot(id_, starts_at, minutes, clinician, place, capacity), booked, removed_at)


def _of(clinic: Clinic) -> sa.ColumnElement[bool]:
    return sa.and_(slots.c.workspace == clinic.workspace, slots.c.booking == clinic.booking)


def places(connection: sa.Connection, clinic: Clinic) -> list[Place]:
    """All slots of a clinic, those that are gone too, in the order of their times."""
    query = sa.select(*_SLOT).where(_of(clinic)).order_by(slots.c.starts_at, slots.c.id)
    return [_place(row) for row in connection.execute(query)]


def free(connection: sa.Connection, clinic: Clinic, now: datetime) -> list[Place]:
    """Those that can be booked at ``now``, in the order of their times."""
    return [_place(row) for row in connection.execute(_FREE, _bound(clinic, now))]


def place(connection: sa.Connection, clinic: Clinic, number: int) -> Place | None:
    """A clinic's slot by its number here, free or not."""
    row = connection.execute(sa.select(*_SLOT).where(_of(clinic), slots.c.id == number)).one_or_none()
    return None if row is None else _place(row)


def workspaces(connection: sa.Connection, booking: str) -> list[str]:
    """Those that have slots of this name."""
    return list(connection.scalars(sa.select(slots.c.workspace).where(slots.c.booking == booking).distinct()))


_IS_FREE = sa.and_(
    slots.c.workspace == sa.bindparam("of_workspace"),
    slots.c.booking == sa.bindparam("of_booking"),
    slots.c.removed_at.is_(None),
    slots.c.starts_at > sa.bindparam("at", type_=Instant()),
    slots.c.booked < slots.c.capacity,
)
# Statements that patients' pages ask again and again are made once: to make one takes longer than to run it.
_FREE = sa.select(*_SLOT).where(_IS_FREE).order_by(slots.c.starts_at, slots.c.id)
_IS_AS_SHOWN = sa.and_(
    slots.c.id == sa.bindparam("of_number"),
    *(
        slots.c[name].is_not_distinct_from(sa.bindparam(f"shown_{name}", type_=slots.c[name].type))
        for name in ("starts_at", "minutes", "clinician", "place")
    ),
)
_TAKE_ONE = sa.update(slots).where(_IS_AS_SHOWN, _IS_FREE).values(booked=slots.c.booked + 1)


def _bound(clinic: Clinic, now: datetime) -> dict[str, object]:
    return {"of_workspace": clinic.workspace, "of_booking": clinic.booking, "at": now}


def known(connection: sa.Connection, clinic: Clinic) -> dict[str, Known]:
    """The slots of a clinic by their ids, as a new file is held against them."""
    ever_booked = sa.exists().where(bookings.c.slot == slots.c.id)
    query = sa.select(*_SLOT, ever_booked).where(_of(clinic))
    found = [(_place(row), row[9]) for row in connection.execute(query)]
    return {
        place.slot.id: Known(place.slot, place.booked, ever_booked=bool(ever), removed=place.removed_at is not None)
        for place, ever in found
    }


def take_in(
    connection: sa.Connection, clinic: Clinic, found: Mapping[str, Slot], file: str, sha256: str, now: datetime, by: str
) -> Changes:
    """Makes a clinic's slots those of a file; gives what became otherwise. The same again is no change.

    One that is left out, or has fewer places than were booked, keeps its bookings, and nobody else books it. ``Refused``
    for what patients were told and the file would make untrue.
    """
    queue_for(connection, f"slots:{clinic.workspace}:{clinic.booking}", shared=False)
    locked = sa.select(slots.c.id).where(_of(clinic)).order_by(slots.c.id).with_for_update()
    connection.execute(locked).all()
    before = known(connection, clinic)
    for slot, why in rules.faults(found.values(), before, now):
        raise Refused(f"{file}, line {slot.line}: {why}")
    changed = rules.changes(found, before, now)
    for slot in changed.new:
        connection.execute(sa.insert(slots).values(**clinic._asdict(), slot=slot.id, **_written(slot), added_at=now))
    for slot in changed.altered:
        this = sa.and_(_of(clinic), slots.c.slot == slot.id)
        connection.execute(sa.update(slots).where(this).values(**_written(slot), removed_at=None))
    for id_ in changed.removed:
        connection.execute(sa.update(slots).where(_of(clinic), slots.c.slot == id_).values(removed_at=now))
    if changed.new or changed.altered or changed.removed:
        counted = {"new": len(changed.new), "altered": len(changed.altered), "removed": len(changed.removed)}
        audit.record(connection, now, by, "slots", None, {**clinic._asdict(), "sha256": sha256, **counted})
    return changed


def _written(slot: Slot) -> dict[str, object]:
    return {name: getattr(slot, name) for name in ("starts_at", "minutes", "clinician", "place", "capacity")}


# What a patient chooses ----------------------------------------------------------------------------------------------


_WHOSE = (
    sa.select(links_table.c.batch, links_table.c.patient, attempts.c.line)
    .join(attempts, sa.and_(attempts.c.batch == links_table.c.batch, attempts.c.patient == links_table.c.patient))
    .where(links_table.c.token_hash == sa.bindparam("of_hash"), attempts.c.step == "primary")
)
_INVITED_AT = (
    sa.select(attempts.c.begun_at)
    .where(
        attempts.c.batch == links_table.c.batch,
        attempts.c.patient == links_table.c.patient,
        attempts.c.step == "primary",
    )
    .scalar_subquery()
)
_CHOSEN = (
    sa.select(
        *(*_SLOT, bookings.c.identifier, bookings.c.made_at, bookings.c.ended_at, bookings.c.ended_because),
        _INVITED_AT.label("invited_at"),
    )
    .select_from(links_table)
    .join(
        bookings,
        sa.and_(
            bookings.c.patient == links_table.c.patient,
            bookings.c.workspace == sa.bindparam("of_workspace"),
            bookings.c.booking == sa.bindparam("of_booking"),
        ),
    )
    .outerjoin(slots, slots.c.id == bookings.c.slot)
    .where(links_table.c.token_hash == sa.bindparam("of_hash"))
    .order_by(bookings.c.id)
)


def choice(connection: sa.Connection, token_hash: str, clinic: Clinic) -> Choice | None:
    """What the patient of a link chose last, by this link or another; ``None`` before the first time."""
    bound = {"of_hash": token_hash, "of_workspace": clinic.workspace, "of_booking": clinic.booking}
    rows = _since_the_last_that_is_over(connection.execute(_CHOSEN, bound).all())
    if not rows:
        return None
    last = rows[-1]
    first = next((row for row in rows if row.id is not None), last)
    place = None if last.id is None else _place(last)
    return Choice(last.identifier, place, last.made_at, last.ended_at, first.identifier, len(rows))


def _since_the_last_that_is_over(rows: Sequence[sa.Row[*tuple[Any, ...]]]) -> Sequence[sa.Row[*tuple[Any, ...]]]:
    begins = [n for n, row in enumerate(rows, 1) if row.ended_because == OVER or _was_over(row)]
    return rows[begins[-1] :] if begins else rows


def _was_over(row: sa.Row[*tuple[Any, ...]]) -> bool:
    """Whether it is an appointment that had begun when the patient was invited."""
    if row.id is None or row.ended_at is not None or row.invited_at is None:
        return False
    return row.starts_at <= row.invited_at


def book(
    connection: sa.Connection,
    token_hash: str,
    clinic: Clinic,
    wanted: Place,
    replacing: str | None,
    now: datetime,
    new_id: Callable[[], str],
) -> Result:
    """Books a slot, as the patient of a link saw it. The same again is done already.

    ``replacing``: the identifier of the booking that the patient knows to have, and changes; the new place is had before
    the old one is given back, in one transaction.
    """
    found = _alone(connection, token_hash, clinic, now)
    if found is None:
        return "gone"
    whose, last = found
    if (settled := _settled(last, wanted.number, replacing, now)) is not None:
        return settled
    if not _take(connection, clinic, wanted, last, now):
        return "taken"
    if last is not None and last.ended_at is None:
        _end(connection, last, "changed" if last.place is not None else "booked", now)
    _leave_behind(connection, whose, clinic, now)
    _begin(connection, whose, clinic, wanted.number, now, new_id)
    said = {"line": whose.line, "slot": wanted.number}
    audit.record(connection, now, PATIENT, "book" if replacing is None else "change_booking", whose.batch, said)
    return "done"


def _settled(last: Choice | None, number: int, replacing: str | None, now: datetime) -> Result | None:
    """What a wish to book comes to by what the patient has chosen before; ``None``: the slot decides."""
    booked = last.place if last is not None and last.is_booked else None
    if booked is not None and booked.number == number:
        return "done"
    if replacing != (last.identifier if last is not None and booked is not None else None):
        return "otherwise"
    if booked is not None and booked.slot.starts_at <= now:
        return "otherwise"
    return "too_often" if last is not None and last.number >= rules.MOST_CHOICES else None


def cancel(connection: sa.Connection, token_hash: str, clinic: Clinic, identifier: str, now: datetime) -> Result:
    """Cancels a booking of the link's patient, until it begins. The same again is done already."""
    found = _alone(connection, token_hash, clinic, now)
    if found is None:
        return "gone"
    whose, last = found
    if last is None or last.place is None or last.identifier != identifier:
        return "otherwise"
    if last.ended_at is not None:
        return "done"
    if last.place.slot.starts_at <= now:
        return "otherwise"
    _end(connection, last, "cancelled", now)
    audit.record(connection, now, PATIENT, "cancel_booking", whose.batch, {"line": whose.line})
    return "done"


def decline(
    connection: sa.Connection, token_hash: str, clinic: Clinic, now: datetime, new_id: Callable[[], str]
) -> Result:
    """Notes that the link's patient wants no appointment. Who has one cancels it first."""
    found = _alone(connection, token_hash, clinic, now)
    if found is None:
        return "gone"
    whose, last = found
    if last is not None and last.ended_at is None:
        return "done" if last.is_declined else "otherwise"
    if last is not None and last.number >= rules.MOST_CHOICES:
        return "too_often"
    _leave_behind(connection, whose, clinic, now)
    _begin(connection, whose, clinic, None, now, new_id)
    audit.record(connection, now, PATIENT, "decline_booking", whose.batch, {"line": whose.line})
    return "done"


def _alone(
    connection: sa.Connection, token_hash: str, clinic: Clinic, now: datetime
) -> tuple[_Whose, Choice | None] | None:
    """Who the link's patient is, and what they chose last; ``None`` where the link opens no more.

    Nobody else changes either in this transaction, nor by another link of the same patient.
    """
    link = links.find(connection, token_hash, lock=True)
    if link is None or link.standing(now) != "open":
        return None
    whose = _Whose(*connection.execute(_WHOSE, {"of_hash": token_hash}).one())
    queue_for(connection, f"booking:{clinic.workspace}:{clinic.booking}:{whose.patient}", shared=False)
    return whose, choice(connection, token_hash, clinic)


def _take(connection: sa.Connection, clinic: Clinic, wanted: Place, last: Choice | None, now: datetime) -> bool:
    """Takes a place, if there is one; the one that will be given back is locked with it, the smaller number first."""
    if last is not None and last.place is not None and last.ended_at is None:
        both = sa.select(slots.c.id).where(slots.c.id.in_((wanted.number, last.place.number))).order_by(slots.c.id)
        connection.execute(both.with_for_update()).all()
    starts_at, minutes, clinician, place = wanted.slot.told
    shown = {"starts_at": starts_at, "minutes": minutes, "clinician": clinician, "place": place}
    bound = {f"shown_{name}": value for name, value in shown.items()}
    return connection.execute(_TAKE_ONE, {**_bound(clinic, now), **bound, "of_number": wanted.number}).rowcount == 1


def _end(connection: sa.Connection, last: Choice, because: str, now: datetime) -> None:
    """Ends what was chosen last, and gives its place back."""
    this = bookings.c.identifier == last.identifier
    connection.execute(sa.update(bookings).where(this).values(ended_at=now, ended_because=because))
    if last.place is not None:
        that = slots.c.id == last.place.number
        connection.execute(sa.update(slots).where(that).values(booked=slots.c.booked - 1))


def _leave_behind(connection: sa.Connection, whose: _Whose, clinic: Clinic, now: datetime) -> None:
    """Ends what is still open, an appointment that is over; its place was used, and isn't given back."""
    bound = {"of_workspace": clinic.workspace, "of_booking": clinic.booking, "of_patient": whose.patient}
    connection.execute(_END_OVER, {**bound, "at": now})


_END_OVER = (
    sa.update(bookings)
    .where(
        bookings.c.workspace == sa.bindparam("of_workspace"),
        bookings.c.booking == sa.bindparam("of_booking"),
        bookings.c.patient == sa.bindparam("of_patient"),
        sa.text(OPEN_BOOKING),
    )
    .values(ended_at=sa.bindparam("at", type_=Instant()), ended_because=OVER)
)


def _begin(
    connection: sa.Connection,
    whose: _Whose,
    clinic: Clinic,
    number: int | None,
    now: datetime,
    new_id: Callable[[], str],
) -> None:
    row = {**whose._asdict(), **clinic._asdict(), "identifier": new_id(), "slot": number, "made_at": now}
    connection.execute(sa.insert(bookings).values(row))


# What is reported ----------------------------------------------------------------------------------------------------

# Of whoever has a link, by whichever link it was chosen. What they chose of other slots counts, too: a report is made once
# more than it need be.
_OF_LINKS = (
    sa.select(links_table.c.batch, (sa.func.count() + sa.func.count(bookings.c.ended_at)).label("changes"))
    .join(batches, batches.c.batch == links_table.c.batch)
    .join(
        bookings,
        sa.and_(bookings.c.patient == links_table.c.patient, bookings.c.workspace == batches.c.workspace),
    )
    .where(links_table.c.kind == "self_book")
    .group_by(links_table.c.batch)
)
"""Only grows, whatever patients do."""


class Reported(NamedTuple):
    """What a report is made of."""

    changes: int
    """How often patients of the batch have chosen, or ended what they chose."""
    before: int | None
    """The same of the report before it, when this one was begun; ``None``: there was none."""


def reported(connection: sa.Connection, batch: str) -> Reported:
    """What a report that is made now is made of: ``mark_reported``."""
    row = connection.execute(_OF_LINKS.where(links_table.c.batch == batch)).one_or_none()
    before = sa.select(booking_reports.c.changes).where(booking_reports.c.batch == batch)
    return Reported(0 if row is None else row.changes, connection.scalar(before))


def unreported(connection: sa.Connection) -> list[str]:
    """Batches of which patients have chosen something since their bookings were reported."""
    every = _OF_LINKS.subquery("every")
    query = (
        sa.select(every.c.batch)
        .outerjoin(booking_reports, booking_reports.c.batch == every.c.batch)
        .where(sa.func.coalesce(booking_reports.c.changes, 0) < every.c.changes)
        .order_by(every.c.batch)
    )
    return list(connection.scalars(query))


def mark_reported(connection: sa.Connection, batch: str, made_of: Reported) -> None:
    """Notes that a batch's report was written. Of two at once nobody knows whose file stands: it is due once more."""
    row = insert(connection, booking_reports).values(batch=batch, changes=made_of.changes)
    alone = booking_reports.c.changes.is_not_distinct_from(made_of.before)
    stands = sa.case((alone, row.excluded.changes), else_=0)
    connection.execute(row.on_conflict_do_update(index_elements=["batch"], set_={"changes": stands}))
