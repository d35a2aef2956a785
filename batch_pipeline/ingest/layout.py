"""Where in a file its headings are, with which delimiter, and what each column is (SPEC 2.1)."""

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, NamedTuple

from batch_pipeline.errors import Refused
from batch_pipeline.ingest.grammar import Grammar, Limits, after_line_end
from batch_pipeline.rules.cells import is_blank
from batch_pipeline.rules.headings import Column, field_of, name_columns, recognised
from batch_pipeline.rules.rejections import REJECTIONS

DELIMITERS: Final = (",", ";", "\t")
_LINE_END: Final = re.compile(rb"\r\n?|\n")
_SHOWN_HEADINGS: Final = 20
_SHOWN_LETTERS: Final = 40
_SAMPLE_RECORDS: Final = 100


class Line(NamedTuple):
    """One record near the beginning: its row number, where it and the next one start, its cells or its problem."""

    number: int
    start: int
    end: int
    cells: list[str]
    problem: str | None


@dataclass(frozen=True)
class Layout:
    """How a file is to be read.

    ``data_start``: offset of the first record after the headings, in the text as UTF-8. ``left_out`` and
    ``blank_lines`` count the lines above the headings. ``required``: a file's torn last line with fewer cells was cut off.
    ``width``: how many cells most lines have, at least one for each column.
    """

    grammar: Grammar
    headings_line: int
    data_start: int
    columns: tuple[Column, ...]
    left_out: int
    blank_lines: int
    required: int
    width: int

    @property
    def nhs_number(self) -> int:
        """The position of the column with the NHS numbers."""
        return next(column.position for column in self.columns if column.name == "nhs_number")


def find_layout(head: bytes, *, whole: bool, label: str, limits: Limits) -> Layout:
    """Find the headings: the line with a heading for the NHS number, with the delimiter that shows most headings.

    ``whole``: the head is the whole file. Raises `Refused` if there is no such line, or if two of its headings
    can't both be kept.
    """
    readings = [_Head(head, Grammar(delimiter, limits=limits), whole) for delimiter in DELIMITERS]
    found = [(reading, line) for reading in readings for line in reading.lines if _holds_nhs_number(line.cells)]
    if not found:
        raise _no_headings(readings, label)
    reading, line = max(found, key=lambda pair: (recognised(pair[1].cells), -pair[1].number))
    above = [other for other in reading.lines if other.number < line.number]
    blank = sum(_is_blank_line(other) for other in above)
    columns = name_columns(line.cells, where=f"{label}, line {line.number}")
    grammar = Grammar(reading.grammar.delimiter, single_column=len(columns) == 1, limits=limits)
    required = [column.position + 1 for column in columns if column.name and not column.unnamed]
    width = max(len(columns), _usual_width(head, grammar, line.end, whole))
    return Layout(grammar, line.number, line.end, columns, len(above) - blank, blank, max(required), width)


class _Head:
    """The first records of a file, read with one delimiter."""

    def __init__(self, head: bytes, grammar: Grammar, whole: bool) -> None:  # noqa: FBT001
        self.grammar = grammar
        self.lines = list(self._read(head, whole))

    def _read(self, head: bytes, whole: bool) -> Iterator[Line]:  # noqa: FBT001
        start = 0
        for number in range(1, self.grammar.limits.records_before_data + 1):
            record = self.grammar.read_record(head, start, final=whole) if start < len(head) else None
            if record is None:
                return
            end, problem = record.end, record.problem
            first_end = _first_line_end(head, start, end)
            if first_end < end and self._hides_headings(head[first_end:end]):
                end, problem = first_end, "unclosed_quote"
            cells = [] if problem else self.grammar.cells(head[start:end].decode())
            yield Line(number, start, end, cells, problem)
            start = end

    def _hides_headings(self, later_lines: bytes) -> bool:
        """Whether a quotation mark left open above the headings has made them part of a cell."""
        lines = (self.grammar.cells(line.decode()) for line in _LINE_END.split(later_lines))
        return any(len(cells) > 1 and _holds_nhs_number(cells) for cells in lines)


def _first_line_end(data: bytes, start: int, end: int) -> int:
    found = _LINE_END.search(data, start, end)
    return after_line_end(data, found.start()) if found else end


def _holds_nhs_number(cells: list[str]) -> bool:
    return any(field_of(cell) == "nhs_number" for cell in cells)


def _is_blank_line(line: Line) -> bool:
    return line.problem is None and all(map(is_blank, line.cells))


def _usual_width(head: bytes, grammar: Grammar, start: int, whole: bool) -> int:  # noqa: FBT001
    """How many cells the first data lines mostly have: some exports end every line with a delimiter."""
    widths: Counter[int] = Counter()
    while start < len(head) and widths.total() < _SAMPLE_RECORDS:
        record = grammar.read_record(head, start, final=whole)
        if record is None:
            break
        if record.problem is None:
            widths[len(grammar.cells(head[start : record.end].decode()))] += 1
        start = record.end
    return widths.most_common(1)[0][0] if widths else 0


def _no_headings(readings: list[_Head], label: str) -> Refused:
    """Tell what was seen instead. Only what is surely a heading is quoted, for a first line may be a patient."""
    lines = [line for reading in readings for line in reading.lines]
    best = max(lines, key=lambda line: (recognised(line.cells), -line.number), default=None)
    mend = 'add a line of headings in which one is "NHS Number"'
    if best is not None and recognised(best.cells):
        shown = _shown(best.cells)
        return Refused(
            f"{label}: no heading for the NHS number; the headings seen on line {best.number} are {shown}: "
            f'name the column with the NHS numbers "NHS Number".'
        )
    unreadable = next((line for line in lines if line.problem), None)
    if unreadable is not None:
        what = REJECTIONS[unreadable.problem or ""].label.lower()
        return Refused(
            f"{label}, line {unreadable.number}: no headings could be read ({what}); mend that line, or {mend}."
        )
    if any(all(map(_is_blank_line, reading.lines)) for reading in readings):
        return Refused(f"{label} is empty; export the list again.")
    seen = max(line.number for line in lines)
    return Refused(f"{label}: no heading that is known in the first {seen} lines; {mend}.")


def _shown(cells: list[str]) -> str:
    """The headings of a line, as far as they can't be somebody's details."""
    certain = recognised(cells) > 1
    names = [
        cell.strip()[:_SHOWN_LETTERS]
        for cell in cells
        if field_of(cell) or (certain and cell.strip() and not re.search(r"[\d@]", cell))
    ]
    return ", ".join(f'"{name}"' for name in names[:_SHOWN_HEADINGS]) + (", …" if len(names) > _SHOWN_HEADINGS else "")
