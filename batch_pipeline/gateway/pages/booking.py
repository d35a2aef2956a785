"""An appointment that the patient books: the free slots by day, a choice that is confirmed, and how it is changed or given up.

What the patient has chosen is asked of the ledger at each page; nothing of it stands in an address. What a form was made
for goes with it (``replacing``: the booking that the patient saw; ``shown``: what was said of the slot), so that a page
which was left open in another window changes nothing that the patient doesn't know of.
"""

import hashlib
import json
import uuid
from dataclasses import dataclass
from datetime import date, datetime
from itertools import groupby
from typing import Any
from zoneinfo import ZoneInfo

from starlette.responses import Response

from batch_pipeline.gateway.pages import attachment
from batch_pipeline.gateway.pages.answers import FILE_HEADERS, page, see_other
from batch_pipeline.gateway.pages.views import day_in_words, time_in_words, weekday_in_words
from batch_pipeline.gateway.pages.visits import PageSet, Visit
from batch_pipeline.ledger import bookings
from batch_pipeline.ledger.bookings import Choice, Clinic, Place, Result
from batch_pipeline.ledger.links import Link
from batch_pipeline.rules.calendar import Event, calendar
from batch_pipeline.rules.slots import Slot

_TAKEN = "Sorry, that appointment has just been taken. Choose another one"
_CHANGED = "Sorry, that appointment has just been changed. Choose again"
_NOTHING_CHOSEN = "Choose a time"
_TOO_OFTEN = "You have changed your appointment many times"


@dataclass(frozen=True, slots=True)
class _Time:
    """A slot in a patient's words."""

    number: int
    day: str
    at: str
    minutes: int
    clinician: str | None
    place: str | None

    @classmethod
    def of(cls, place: Place, zone: ZoneInfo) -> "_Time":
        slot = place.slot
        at = slot.starts_at
        day, time = weekday_in_words(at, zone), time_in_words(at, zone)
        return cls(place.number, day, time, slot.minutes, slot.clinician, slot.place)

    @property
    def more(self) -> str:
        """What stands below the time."""
        said = [f"{self.minutes} minutes", *([f"with {self.clinician}"] if self.clinician else []), self.place]
        return ", ".join(part for part in said if part)


# What there is to see ------------------------------------------------------------------------------------------------


async def _show(visit: Visit, link: Link) -> Response:
    """What was chosen; the days to choose from before that."""
    last = await _choice(visit, link)
    if last is None:
        return await _days(visit, link)
    if last.is_booked and last.place is not None:
        return _booked(visit, link, last.place)
    return _page(visit, link, "booking_ended", declined=last.is_declined)


def _booked(visit: Visit, link: Link, place: Place) -> Response:
    to_come = place.slot.starts_at > visit.now
    return _page(visit, link, "booking_booked", time=_Time.of(place, visit.sender(link).zone), to_come=to_come)


async def _days(visit: Visit, link: Link) -> Response:
    """Every day that has free slots."""
    last, free = await _free(visit, link)
    zone = visit.sender(link).zone
    days = [
        {"address": day.isoformat(), "name": weekday_in_words(some[0].slot.starts_at, zone), "times": len(some)}
        for day, some in _by_day(free, zone)
    ]
    return _page(visit, link, "booking_days", days=days, had=_had(visit, link, last))


async def _times(visit: Visit, link: Link) -> Response:
    """The free slots of the day that the address names."""
    day = _day_of(visit.place.partition("/")[2])
    return visit.gone() if day is None else await _times_of(visit, link, day)


async def _times_of(visit: Visit, link: Link, day: date, error: str | None = None, status: int = 200) -> Response:
    last, free = await _free(visit, link)
    zone = visit.sender(link).zone
    some = dict(_by_day(free, zone)).get(day, [])
    return _page(
        visit,
        link,
        "booking_times",
        status,
        day=f"{day:%A} {day.day} {day:%B %Y}",
        address=day.isoformat(),
        times=[_Time.of(each, zone) for each in some],
        had=_had(visit, link, last),
        replacing=_replacing(last),
        error=error,
    )


async def _calendar(visit: Visit, link: Link) -> Response:
    """The appointment for the patient's own calendar: no more than the slot says."""
    last = await _choice(visit, link)
    if last is None or last.place is None or not last.is_booked:
        return see_other(f"/{visit.token}")
    event = Event(
        uid=last.calendar_id,
        sequence=last.number - 1,
        made_at=last.made_at,
        summary=f"Appointment at {visit.sender(link).name}",
        slot=last.place.slot,
    )
    named = {"Content-Disposition": 'attachment; filename="appointment.ics"'}
    return Response(calendar(event), headers={**FILE_HEADERS, **named}, media_type="text/calendar")


# What is done --------------------------------------------------------------------------------------------------------


async def _confirm(visit: Visit, link: Link) -> Response:
    """The slot that was chosen, to be looked at once more."""
    fields, genuine = await _posted(visit)
    if not genuine:
        return see_other(f"/{visit.token}")
    place = await _wanted(visit, link, fields)
    if place is None:
        return await _times_of(visit, link, _day_of(fields.get("day", "")) or visit.now.date(), _NOTHING_CHOSEN, 422)
    last = await _choice(visit, link)
    if last is not None and last.is_booked and last.place is not None and last.place.number == place.number:
        return see_other(f"/{visit.token}")
    if not (place.free and place.slot.starts_at > visit.now):
        return await _taken(visit, link, place.slot)
    return _page(
        visit,
        link,
        "booking_confirm",
        time=_Time.of(place, visit.sender(link).zone),
        address=_day(place.slot.starts_at, visit.sender(link).zone).isoformat(),
        had=_had(visit, link, last),
        replacing=fields.get("replacing", ""),
        shown=_stamp(place.slot),
    )


async def _book(visit: Visit, link: Link) -> Response:
    fields, genuine = await _posted(visit)
    place = await _wanted(visit, link, fields) if genuine else None
    if place is None:
        return see_other(f"/{visit.token}")
    if fields.get("shown") != _stamp(place.slot):
        return await _taken(visit, link, place.slot, _CHANGED)
    replacing = fields.get("replacing") or None
    done: Result = await visit.site.opening.write(
        lambda connection: bookings.book(
            connection, visit.token_hash, _clinic(link), place, replacing, visit.now, _new_id
        )
    )
    return await _taken(visit, link, place.slot) if done == "taken" else _after(visit, link, done)


async def _taken(visit: Visit, link: Link, slot: Slot, why: str = _TAKEN) -> Response:
    """Somebody was quicker: what else there is on that day."""
    return await _times_of(visit, link, _day(slot.starts_at, visit.sender(link).zone), why, 409)


async def _ask_to_cancel(visit: Visit, link: Link) -> Response:
    last = await _choice(visit, link)
    if last is None or last.place is None or not last.is_booked or last.place.slot.starts_at <= visit.now:
        return see_other(f"/{visit.token}")
    time = _Time.of(last.place, visit.sender(link).zone)
    return _page(visit, link, "booking_cancel", time=time, replacing=last.identifier)


async def _cancel(visit: Visit, link: Link) -> Response:
    fields, genuine = await _posted(visit)
    if not genuine:
        return see_other(f"/{visit.token}")
    identifier = fields.get("replacing", "")
    return _after(
        visit,
        link,
        await visit.site.opening.write(
            lambda connection: bookings.cancel(connection, visit.token_hash, _clinic(link), identifier, visit.now)
        ),
    )


async def _ask_to_decline(visit: Visit, link: Link) -> Response:
    last = await _choice(visit, link)
    return _page(visit, link, "booking_decline") if last is None or last.ended_at else see_other(f"/{visit.token}")


async def _decline(visit: Visit, link: Link) -> Response:
    _, genuine = await _posted(visit)
    if not genuine:
        return see_other(f"/{visit.token}")
    return _after(
        visit,
        link,
        await visit.site.opening.write(
            lambda connection: bookings.decline(connection, visit.token_hash, _clinic(link), visit.now, _new_id)
        ),
    )


def _after(visit: Visit, link: Link, done: Result) -> Response:
    """Where a patient is led after something was asked for: to what holds now."""
    if done == "gone":
        return visit.gone()
    if done == "too_often":
        says = f"What you have booked stays as it is. Please contact {visit.sender(link).name}, who can help you."
        return page(visit.site.views.render("problem", heading=_TOO_OFTEN, says=says), 409)
    return see_other(f"/{visit.token}")


# What they have in common --------------------------------------------------------------------------------------------


def _page(visit: Visit, link: Link, name: str, status: int = 200, **values: Any) -> Response:
    sender = visit.sender(link)
    return page(
        visit.site.views.render(
            name,
            sender=sender,
            token=visit.token,
            form=visit.signed("form"),
            until=day_in_words(link.ends_at(visit.now), sender.zone),
            document=attachment.attachment_of(link),
            **values,
        ),
        status,
    )


async def _posted(visit: Visit) -> tuple[dict[str, str], bool]:
    return await visit.posted("form", visit.site.of.limits.body_bytes)


async def _choice(visit: Visit, link: Link) -> Choice | None:
    clinic = _clinic(link)
    return await visit.site.opening.read(lambda connection: bookings.choice(connection, visit.token_hash, clinic))


async def _free(visit: Visit, link: Link) -> tuple[Choice | None, list[Place]]:
    """What the patient has, and what there is besides."""
    clinic = _clinic(link)
    last, free = await visit.site.opening.read(
        lambda connection: (
            bookings.choice(connection, visit.token_hash, clinic),
            bookings.free(connection, clinic, visit.now),
        )
    )
    mine = last.place.number if last is not None and last.is_booked and last.place is not None else None
    return last, [each for each in free if each.number != mine]


async def _wanted(visit: Visit, link: Link, fields: dict[str, str]) -> Place | None:
    """The slot of the link's own clinic that was chosen."""
    number = fields.get("slot", "")
    if not (number.isascii() and number.isdecimal() and len(number) <= len("999999999999")):
        return None
    return await visit.site.opening.read(lambda connection: bookings.place(connection, _clinic(link), int(number)))


def _clinic(link: Link) -> Clinic:
    return Clinic(link.workspace, json.loads(link.spec)["batch_file"]["message"]["booking"])


def _had(visit: Visit, link: Link, last: Choice | None) -> _Time | None:
    """The appointment that a patient who chooses already has."""
    if last is None or last.place is None or not last.is_booked:
        return None
    return _Time.of(last.place, visit.sender(link).zone)


def _replacing(last: Choice | None) -> str:
    return last.identifier if last is not None and last.is_booked else ""


def _stamp(slot: Slot) -> str:
    """What a patient is told of a slot before it is booked: a file may change it while they look at it."""
    return hashlib.sha256("|".join(map(str, slot.told)).encode()).hexdigest()[:16]


def _by_day(free: list[Place], zone: ZoneInfo) -> list[tuple[date, list[Place]]]:
    return [(day, list(some)) for day, some in groupby(free, lambda each: _day(each.slot.starts_at, zone))]


def _day(instant: datetime, zone: ZoneInfo) -> date:
    return instant.astimezone(zone).date()


def _day_of(text: str) -> date | None:
    try:
        return date.fromisoformat(text)
    except ValueError:
        return None


def _new_id() -> str:
    return str(uuid.uuid4())


PAGES = PageSet(
    {
        "": {"GET": _show},
        "days": {"GET": _days},
        "times": {"GET": _times},
        "confirm": {"POST": _confirm},
        "book": {"POST": _book},
        "cancel": {"GET": _ask_to_cancel, "POST": _cancel},
        "decline": {"GET": _ask_to_decline, "POST": _decline},
        "appointment.ics": {"GET": _calendar},
        "attachment": {"GET": attachment.hand_out},
    }
)
