"""How a cohort file is to be read, letter by letter and without any cleverness: what the reader is compared with.

Written from SPEC 2.0 and 2.1, and shares nothing with the package but the names of the fields.
"""

import re
from typing import NamedTuple

_NHS_NUMBER = re.compile(r"[0-9]{3}[ -]?[0-9]{3}[ -]?[0-9]{4}")


class Expected(NamedTuple):
    rows: list[tuple[int, str | None, list[str | None]]]
    blank: int
    left_out: int


class Rules(NamedTuple):
    delimiter: str
    columns: int
    record_bytes: int
    record_lines: int


def expected(text: str, rules: Rules) -> Expected:
    """The rows of a file whose first record is its headings, all of them named."""
    rows: list[tuple[int, str | None, list[str | None]]] = []
    blank = left_out = number = position = 0
    while position < len(text):
        number += 1
        position, problem, cells = _record(text, position, rules)
        if number == 1:
            continue
        if problem is None and all(not cell.strip() for cell in cells):
            blank += 1
        elif problem is None and cells[0].lower().startswith("patient count") and not any(cells[2:]):
            left_out += 1
        elif problem is None and (
            _torn(text, position, cells, rules) or any(cell.strip() for cell in cells[rules.columns :])
        ):
            rows.append((number, "wrong_number_of_cells", [None] * rules.columns))
        elif problem:
            rows.append((number, problem, [None] * rules.columns))
        else:
            padded = [*cells, *[""] * rules.columns]
            rows.append((number, None, [cell or None for cell in padded[: rules.columns]]))
    return Expected(rows, blank, left_out)


def _torn(text: str, after: int, cells: list[str], rules: Rules) -> bool:
    """A last line without an end, that lacks cells: elsewhere a spreadsheet left out delimiters of empty cells."""
    return after >= len(text) and not text.endswith(("\n", "\r")) and len(cells) < rules.columns


def _record(text: str, start: int, rules: Rules) -> tuple[int, str | None, list[str]]:
    """Where the next record starts, and this one's problem or cells."""
    line_end = _next_of(text, start, "\r\n")
    next_line = _after(text, line_end)
    if _size(text[start:line_end]) > rules.record_bytes:
        return next_line, "line_too_long", []
    cells: list[str] = []
    lines = 1
    position = start
    while True:
        if text[position : position + 1] == '"':
            closing = _closing(text, position)
            if closing is None:
                return next_line, "unclosed_quote", []
            content = text[position + 1 : closing]
            later_lines = re.split("\r\n|\r|\n", content)[1:]
            position = closing + 1
            if position < len(text) and text[position] not in rules.delimiter + "\r\n":
                return next_line, "unclosed_quote" if later_lines else "text_after_quote", []
            lines += len(later_lines)
            if any(_like_a_patient(line, rules) for line in later_lines):
                return next_line, "unclosed_quote", []
            cells.append(content.replace('""', '"'))
        else:
            begin = position
            position = _next_of(text, begin, rules.delimiter + "\r\n")
            cells.append(text[begin:position])
        if lines > rules.record_lines or _size(text[start:position]) > rules.record_bytes:
            return next_line, "unclosed_quote", []
        if position == len(text) or text[position] in "\r\n":
            end = _after(text, position)
            return end, "unreadable_characters" if "\0" in text[start:end] else None, cells
        position += 1


def _next_of(text: str, start: int, letters: str) -> int:
    while start < len(text) and text[start] not in letters:
        start += 1
    return start


def _closing(text: str, opening: int) -> int | None:
    position = opening + 1
    while position < len(text):
        if text[position] == '"':
            if text[position + 1 : position + 2] != '"':
                return position
            position += 1
        position += 1
    return None


def _after(text: str, line_end: int) -> int:
    return line_end + (2 if text[line_end : line_end + 2] == "\r\n" else 1)


def _size(text: str) -> int:
    return len(text.encode())


def _like_a_patient(line: str, rules: Rules) -> bool:
    cells = line.split(rules.delimiter)
    return (len(cells) > 1 or rules.columns == 1) and any(_NHS_NUMBER.fullmatch(cell.strip(' "')) for cell in cells)
