"""A file of slots that patients can book: ``slots/NAME.csv`` or ``NAME.ics`` of the home (SPEC 2.12).

A file with one fault is refused whole.
"""

import csv
import hashlib
import io
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TypeAlias
from zoneinfo import ZoneInfo

from batch_pipeline.errors import Refused
from batch_pipeline.home import Home
from batch_pipeline.rules import slots as rules
from batch_pipeline.rules.slots import COLUMNS, MOST_SLOTS, REQUIRED, Known, NotASlot, Slot
from batch_pipeline.yaml_files import read_text

_CALENDAR = ".ics"
_DELIMITERS = (",", ";", "\t")
_Written: TypeAlias = dict[str, str]


@dataclass(frozen=True, slots=True)
class SlotsFile:
    """Slots that were read, and what they were read from."""

    name: str
    slots: Mapping[str, Slot]
    text: str = field(repr=False)

    @property
    def sha256(self) -> str:
        """By which the file is kept."""
        return hashlib.sha256(self.text.encode()).hexdigest()

    @property
    def places(self) -> int:
        """How many patients can book."""
        return sum(slot.capacity for slot in self.slots.values())


def read_slots(home: Home, booking: str, zone: ZoneInfo, known: Mapping[str, Known], now: datetime) -> SlotsFile:
    """The slots that ``booking`` names. ``Refused`` for a file that isn't there, and for the first line that is at fault."""
    path = _path(home, booking)
    text = read_text(path)
    written = _events(path.name, text) if path.suffix == _CALENDAR else _lines(path.name, text)
    found = list(_slots(path.name, written, zone))
    if not found:
        raise Refused(f"{path.name}: there is no slot in it: write one, or the batch has nothing to offer")
    for slot, why in rules.faults(found, known, now):
        raise Refused(f"{path.name}, line {slot.line}: {why}")
    if all(slot.starts_at <= now for slot in found):
        raise Refused(f"{path.name}: all of its slots have begun already: add some that are still to come")
    return SlotsFile(path.name, {slot.id: slot for slot in found}, text)


def _path(home: Home, booking: str) -> Path:
    there = [path for suffix in (".csv", _CALENDAR) if (path := home.slots / f"{booking}{suffix}").is_file()]
    if not there:
        path = home.slots / f"{booking}.csv"
        raise Refused(f'there are no slots "{booking}": put them into {path}, or correct message.booking')
    if len(there) > 1:
        raise Refused(f"{home.slots} has both {there[0].name} and {there[1].name}: take one away")
    return there[0]


def _slots(name: str, lines: Iterable[tuple[int, _Written | NotASlot]], zone: ZoneInfo) -> Iterator[Slot]:
    for number, (line, written) in enumerate(lines, 1):
        if number > MOST_SLOTS:
            raise Refused(f"{name}, line {line}: there are over {MOST_SLOTS:,} slots: make several files of them")
        try:
            if isinstance(written, NotASlot):
                raise written
            yield rules.read_slot(written, zone, line)
        except NotASlot as why:
            raise Refused(f"{name}, line {line}: {why}") from None


def _events(name: str, text: str) -> Iterator[tuple[int, _Written | NotASlot]]:
    """Each event of a calendar."""
    from batch_pipeline.rules.calendar import NotACalendar, written_slots  # noqa: PLC0415 - it takes long to load

    try:
        yield from written_slots(text)
    except NotACalendar:
        raise Refused(f"{name}: this isn't a whole iCalendar file: export the calendar again") from None


def _lines(name: str, text: str) -> Iterator[tuple[int, _Written]]:
    """Each line that says something, by the headings; its number is that of the row in a spreadsheet."""
    headings = text.lstrip("\n").partition("\n")[0]
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=max(_DELIMITERS, key=headings.count), strict=True)
    columns: list[str] = []
    line = 0
    try:
        for line, row in enumerate(reader, 1):
            if not any(cell.strip() for cell in row):
                continue
            if not columns:
                columns = _columns(f"{name}, line {line}", row)
            elif any(cell.strip() for cell in row[len(columns) :]):
                raise Refused(f"{name}, line {line}: it has more cells than there are headings: look for a stray comma")
            else:
                yield line, dict(zip(columns, row, strict=False))
    except csv.Error:
        raise Refused(f"{name}, line {line + 1}: it can't be read: look for a stray quotation mark") from None


def _columns(place: str, row: list[str]) -> list[str]:
    columns = [cell.strip().lower() for cell in row]
    while not columns[-1]:
        columns.pop()
    if missing := [name for name in REQUIRED if name not in columns]:
        raise Refused(f"{place}: the heading {missing[0]} is missing: the headings are {','.join(COLUMNS)}")
    for column in columns:
        if column not in COLUMNS:
            raise Refused(f'{place}: the heading "{column[:40]}" isn\'t known: the headings are {",".join(COLUMNS)}')
        if columns.count(column) > 1:
            raise Refused(f"{place}: the heading {column} stands there twice: take one away")
    return columns
