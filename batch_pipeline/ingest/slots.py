"""A file of slots that patients can book: ``slots/NAME.csv`` of the home (SPEC 2.12). A file with one fault is refused whole."""

import csv
import hashlib
import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from zoneinfo import ZoneInfo

from batch_pipeline.errors import Refused
from batch_pipeline.home import Home
from batch_pipeline.rules import slots as rules
from batch_pipeline.rules.slots import COLUMNS, MOST_SLOTS, REQUIRED, Known, NotASlot, Slot
from batch_pipeline.yaml_files import read_text

_DELIMITERS = (",", ";", "\t")


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
    path = home.slots / f"{booking}.csv"
    if not path.is_file():
        raise Refused(f'there are no slots "{booking}": put them into {path}, or correct message.booking')
    text = read_text(path)
    found = list(_slots(path.name, text, zone))
    if not found:
        raise Refused(f"{path.name}: there is no slot in it: write a line for each, below the headings")
    for slot, why in rules.faults(found, known, now):
        raise Refused(f"{path.name}, line {slot.line}: {why}")
    if all(slot.starts_at <= now for slot in found):
        raise Refused(f"{path.name}: all of its slots have begun already: add some that are still to come")
    return SlotsFile(path.name, {slot.id: slot for slot in found}, text)


def _slots(name: str, text: str, zone: ZoneInfo) -> Iterator[Slot]:
    for number, (line, written) in enumerate(_lines(name, text), 1):
        if number > MOST_SLOTS:
            raise Refused(f"{name}, line {line}: there are over {MOST_SLOTS:,} slots: make several files of them")
        try:
            yield rules.read_slot(written, zone, line)
        except NotASlot as why:
            raise Refused(f"{name}, line {line}: {why}") from None


def _lines(name: str, text: str) -> Iterator[tuple[int, dict[str, str]]]:
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
