"""Slots that patients book by themselves: what is written of one, when it begins, and what a new file changes (SPEC 2.12).

A start is written in the workspace's own time. Twice a year such a time comes twice, or not at all, and then nothing is
guessed. What patients were told of a slot stays true: one that was ever booked keeps its time, clinician and place.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta, tzinfo
from zoneinfo import ZoneInfo

from batch_pipeline.rules import cells

COLUMNS = ("id", "start", "minutes", "clinician", "place", "capacity")
REQUIRED = ("id", "start", "minutes")
MOST_SLOTS = 20_000
LONGEST = 200
"""Characters of a slot's id, clinician or place."""
MOST_MINUTES = 24 * 60
MOST_PLACES = 10_000
MOST_CHOICES = 30
"""So often a patient may book, change or decline by one link; then a person has to help."""

_ISO = re.compile(
    r"([0-9]{4})-([0-9]{2})-([0-9]{2})[ T]([0-9]{1,2}):([0-9]{2})(?::00)?(Z|[+-][0-9]{2}:[0-9]{2})?", re.ASCII
)
_DAY_FIRST = re.compile(r"([0-9]{1,2})/([0-9]{1,2})/([0-9]{4}) ([0-9]{1,2}):([0-9]{2})(?::00)?", re.ASCII)


_BOOKED_OTHERWISE = (
    "has been booked with another start, length, clinician or place, which patients were told: leave it as it was, or "
    "give what is new an id of its own"
)


class NotASlot(ValueError):
    """What is written is no slot. The message says why, with the mend, and goes on after file and line."""


@dataclass(frozen=True, slots=True)
class Slot:
    """A time that so many patients can book."""

    id: str
    starts_at: datetime
    minutes: int
    clinician: str | None
    place: str | None
    capacity: int
    line: int = field(default=0, compare=False)
    """Of the file that it is written in."""

    @property
    def ends_at(self) -> datetime:
        """When it is over."""
        return self.starts_at + timedelta(minutes=self.minutes)

    @property
    def told(self) -> tuple[datetime, int, str | None, str | None]:
        """What a patient who books it is told."""
        return self.starts_at, self.minutes, self.clinician, self.place


@dataclass(frozen=True, slots=True)
class Known:
    """A slot as the ledger has it."""

    slot: Slot
    booked: int
    ever_booked: bool
    removed: bool


@dataclass(frozen=True, slots=True)
class Changes:
    """What a file of slots makes of those that are known."""

    new: tuple[Slot, ...]
    altered: tuple[Slot, ...]
    """That are known, and become otherwise; one that had been taken out, and is back, too."""
    removed: tuple[str, ...]
    """That the file has no more, and had until now: nobody else books them."""
    keep_bookings: tuple[tuple[str, int, int], ...]
    """Slots to come that were taken out, or shrunk, under patients who have booked: id, places that are left, bookings."""


# What is written -----------------------------------------------------------------------------------------------------


def read_slot(written: Mapping[str, str], zone: ZoneInfo, line: int) -> Slot:
    """The slot that a line's cells say, by ``COLUMNS``. ``NotASlot`` for anything that isn't one."""
    return Slot(
        id=_id(written.get("id", "")),
        starts_at=start_of(written.get("start", ""), zone),
        minutes=_number(written.get("minutes", ""), "minutes", MOST_MINUTES),
        clinician=_words(written.get("clinician"), "clinician"),
        place=_words(written.get("place"), "place"),
        capacity=_number(written.get("capacity") or "1", "capacity", MOST_PLACES),
        line=line,
    )


def start_of(text: str, zone: ZoneInfo) -> datetime:
    """The moment that is written, in UTC: with an offset as it says, else in the zone."""
    tidied = cells.tidy(text)
    if found := _ISO.fullmatch(tidied):
        *numbers, offset = found.groups()
        year, month, day, hour, minute = map(int, numbers)
    elif found := _DAY_FIRST.fullmatch(tidied):
        day, month, year, hour, minute = map(int, found.groups())
        offset = None
    else:
        raise _no_time(tidied)
    try:
        local = datetime(year, month, day, hour, minute)  # noqa: DTZ001 - the zone is given below
        if offset is not None:
            return datetime.fromisoformat(f"{local.isoformat()}{offset}").astimezone(UTC)
        return in_zone(local, zone)
    except (ValueError, OverflowError) as why:
        raise why if isinstance(why, NotASlot) else _no_time(tidied) from None


def in_zone(local: datetime, zone: tzinfo) -> datetime:
    """The moment of a time on the zone's clocks. ``NotASlot`` for one that comes twice, or never."""
    first, second = (local.replace(tzinfo=zone, fold=fold) for fold in (0, 1))
    if first.utcoffset() == second.utcoffset():
        return first.astimezone(UTC)
    if first.astimezone(UTC).astimezone(zone).replace(tzinfo=None) != local:
        raise NotASlot(f"start {local:%Y-%m-%dT%H:%M}: there is no such time, as the clocks go forward: write another")
    raise NotASlot(
        f"start {local:%Y-%m-%dT%H:%M} comes twice, as the clocks go back: write which one, {first.isoformat('T', 'minutes')} or "
        f"{second.isoformat('T', 'minutes')}"
    )


def _no_time(text: str) -> NotASlot:
    if not text:
        return NotASlot("start is empty: write a time such as 2026-12-01T09:00")
    return NotASlot(f'start "{text[:40]}" isn\'t a time: write it as 2026-12-01T09:00, or 01/12/2026 09:00')


def _id(text: str) -> str:
    tidied = cells.tidy(text)
    if not tidied:
        raise NotASlot("id is empty: give each slot a name of its own, such as A1")
    return _short(tidied, "id")


def _words(text: str | None, column: str) -> str | None:
    return None if text is None or cells.is_empty(text) else _short(cells.tidy(text), column)


def _short(text: str, column: str) -> str:
    if len(text) > LONGEST or not text.isprintable():
        raise NotASlot(f"{column} has over {LONGEST} characters, or some that nobody can read: write it shorter")
    return text


def _number(text: str, column: str, most: int) -> int:
    tidied = cells.tidy(text)
    if not (tidied.isascii() and tidied.isdecimal() and 1 <= int(tidied[:9]) <= most):
        shown = f'"{tidied[:20]}"' if tidied else "empty"
        raise NotASlot(f"{column} is {shown}: write a whole number from 1 to {most:,}")
    return int(tidied)


# What a file changes -------------------------------------------------------------------------------------------------


def faults(slots: Iterable[Slot], known: Mapping[str, Known], now: datetime) -> Iterator[tuple[Slot, str]]:
    """Each slot of a file that can't be taken in as it is, and why, with the mend.

    One that has begun is a slip of the pen, unless it stood there before: a file may be added to while a clinic runs.
    """
    first: dict[str, int] = {}
    for slot in slots:
        if (line := first.setdefault(slot.id, slot.line)) != slot.line:
            yield slot, f'the id "{slot.id}" stands on line {line} already: give each slot an id of its own'
        before = known.get(slot.id)
        if slot.starts_at <= now and (before is None or before.slot.starts_at != slot.starts_at):
            yield slot, f'slot "{slot.id}" has begun already: correct its start, or take the line out'
        if before is not None and before.ever_booked and before.slot.told != slot.told:
            yield slot, f'slot "{slot.id}" {_BOOKED_OTHERWISE}'


def changes(slots: Mapping[str, Slot], known: Mapping[str, Known], now: datetime) -> Changes:
    """What the slots of a file, which has no faults, make of those that are known."""

    def may_be_too_many(before: Known) -> bool:
        return before.booked > 0 and before.slot.starts_at > now

    gone = [before for id_, before in known.items() if id_ not in slots]
    kept = [(known[id_], slot) for id_, slot in slots.items() if id_ in known]
    return Changes(
        new=tuple(slot for id_, slot in slots.items() if id_ not in known),
        altered=tuple(slot for before, slot in kept if before.slot != slot or before.removed),
        removed=tuple(before.slot.id for before in gone if not before.removed),
        keep_bookings=(
            *((before.slot.id, 0, before.booked) for before in gone if may_be_too_many(before) and not before.removed),
            *(
                (slot.id, slot.capacity, before.booked)
                for before, slot in kept
                if may_be_too_many(before) and before.booked > slot.capacity
            ),
        ),
    )
