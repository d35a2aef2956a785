"""Where one record of a delimited file ends, and what makes it unreadable: the exact rule, one record at a time.

`read_record` is the truth; `scan` proves over whole blocks that it need not be asked, and asks it about the rest.

A record is cells between delimiters, ended by LF, CRLF or CR. A cell that begins with a quotation mark is
quoted: delimiters and line ends within belong to it, two marks stand for one, and a delimiter or a line end
must follow the closing one. A quotation mark anywhere else in a cell is a character like any other.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final, NamedTuple

_LINE_END: Final = re.compile(rb"\r\n?|\n")
_QUOTE: Final = 34


@dataclass(frozen=True)
class Limits:
    """What the reader takes in at once, and beyond which length nothing can be one patient."""

    block_bytes: int = 2 * 1024 * 1024
    head_bytes: int = 1024 * 1024
    record_bytes: int = 128 * 1024
    record_lines: int = 200
    records_before_data: int = 50


class Record(NamedTuple):
    """One record: where the next one starts, and the code of its problem if it can't be read.

    ``open_ended``: its line goes on beyond the data, and what is left of it is to be skipped.
    """

    end: int
    problem: str | None = None
    open_ended: bool = False


@dataclass(frozen=True)
class Grammar:
    """The rule for one file: its delimiter, and whether it has one column only."""

    delimiter: str
    single_column: bool = False
    limits: Limits = field(default_factory=Limits)
    _plain: re.Pattern[bytes] = field(init=False, repr=False)
    _quoted: re.Pattern[bytes] = field(init=False, repr=False)
    _patient: re.Pattern[bytes] = field(init=False, repr=False)
    _cell: re.Pattern[str] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        delimiter = re.escape(self.delimiter)
        # Atomic: a mark that was read as half of a doubled one is never taken back to close the cell.
        quoted = '"(?>[^"]*(?:""[^"]*)*)"'
        plain = rf"[^{delimiter}\r\n]*"
        number = '[ "]*[0-9]{3}[ -]?[0-9]{3}[ -]?[0-9]{4}[ "]*'
        in_a_row = rf"(?:[^\r\n]*{delimiter})?{number}(?={delimiter}|[\r\n]|\Z)"
        if not self.single_column:
            in_a_row = rf"(?:[^\r\n]*{delimiter}{number}(?={delimiter}|[\r\n]|\Z)|{number}{delimiter})"
        compiled = {
            "_plain": re.compile(plain.encode()),
            "_quoted": re.compile(quoted.encode()),
            "_patient": re.compile(rf"[\r\n]{in_a_row}".encode()),
            "_cell": re.compile(rf"({quoted}|{plain})(?:{delimiter}|(\r\n?|\n|\Z))"),
        }
        for name, pattern in compiled.items():
            object.__setattr__(self, name, pattern)

    def swallows(self, data: bytes, start: int, end: int) -> bool:
        """Whether a quoted cell (from its opening to after its closing mark) has other patients' lines in it.

        A line of the cell, other than its first, holds an NHS number as a whole cell of a row: then the mark was
        never meant to be open so far, and the lines between would be lost without a word.
        """
        return self._patient.search(data, start + 1, end - 1) is not None

    def read_record(self, data: bytes, start: int, *, final: bool) -> Record | None:
        """The record at ``start``; None if it can't be told before more data is there (never if ``final``).

        If the record can't be read, the line on which it starts is given up and nothing else: what follows is
        read as if it stood alone. Unless ``final``, data doesn't end in CR (an LF might follow).
        """
        limit = start + self.limits.record_bytes
        line = self._line(data, start, limit, final=final)
        if line is None or line.problem:
            return line
        end, problem = self._cells_end(data, start, limit)
        if end == len(data) <= limit and not final:
            return None
        if problem:
            return Record(line.end, problem)
        end = after_line_end(data, end)
        return Record(end, "unreadable_characters" if data.find(b"\0", start, end) >= 0 else None)

    def _line(self, data: bytes, start: int, limit: int, *, final: bool) -> Record | None:
        """The physical line at ``start``."""
        found = _LINE_END.search(data, start, limit + 1)
        if found:
            return Record(after_line_end(data, found.start()))
        if len(data) <= limit:
            return Record(len(data)) if final else None
        beyond = _LINE_END.search(data, limit)
        if beyond:
            return Record(beyond.end(), "line_too_long")
        return Record(len(data), "line_too_long", open_ended=not final)

    def _cells_end(self, data: bytes, start: int, limit: int) -> tuple[int, str | None]:
        """Where the record's last cell ends, or how far reading came and why it gave up."""
        delimiter, lines, position = ord(self.delimiter), 1, start
        while True:
            if data[position : position + 1] != b'"':
                found = self._plain.match(data, position, limit + 1)
            else:
                found = self._quoted.match(data, position, limit)
                if found is None:
                    return min(len(data), limit + 1), "unclosed_quote"
                problem, lines = self._problem_of_quoted(data, position, found.end(), lines)
                if problem:
                    return found.end(), problem
            assert found is not None  # noqa: S101 - the pattern of a plain cell matches the empty text too
            position = found.end()
            if position > limit:
                return position, "unclosed_quote"
            if position == len(data) or data[position] != delimiter:
                return position, None
            position += 1

    def _problem_of_quoted(self, data: bytes, start: int, end: int, lines: int) -> tuple[str | None, int]:
        """What is wrong with a quoted cell, and the record's lines so far."""
        more = sum(1 for _ in _LINE_END.finditer(data, start, end))
        follows = data[end : end + 1]
        if follows and follows not in (b"\r", b"\n", self.delimiter.encode()):
            return ("unclosed_quote" if more or follows == b'"' else "text_after_quote"), lines
        if more and (lines + more > self.limits.record_lines or self.swallows(data, start, end)):
            return "unclosed_quote", lines
        return None, lines + more

    def cells(self, record: str) -> list[str]:
        """The cells of a record that can be read."""
        return list(self._split(record))

    def _split(self, record: str) -> Iterator[str]:
        for found in self._cell.finditer(record):
            text = found[1]
            yield text[1:-1].replace('""', '"') if text.startswith('"') else text
            if found[2] is not None:
                return


def after_line_end(data: bytes, position: int) -> int:
    """Where the line after the one that ends at ``position`` starts."""
    return position + (2 if data[position : position + 2] == b"\r\n" else 1) if position < len(data) else position
