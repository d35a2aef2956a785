"""Whole blocks at once: proof by numpy that a block's records can be read, and the mending of those that can't.

What comes out is CSV that Arrow's parser reads exactly as `grammar` does: the block's own bytes, with each
record that can't be read replaced by one line that stands for it (`placeholder`).
"""

from functools import cached_property
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from batch_pipeline.ingest.grammar import Grammar

Positions = npt.NDArray[np.int64]

_QUOTE, _LF, _CR = 34, 10, 13
_CACHED_BYTES: Final = 128 * 1024
_NOWHERE: Final = np.empty(0, np.int64)
PLACEHOLDER_MARK: Final = "\0"
"""What a placeholder begins with: no record that can be read holds it."""


class Scanned(NamedTuple):
    """The readable form of the first ``consumed`` bytes of a block.

    ``open_ended``: the line that ``consumed`` ends in goes on; the rest of it is to be skipped.
    """

    pieces: list[bytes | memoryview]
    consumed: int
    open_ended: bool = False


def placeholder(problem: str, *, columns: int) -> bytes:
    """A line with a number of cells that is never right, so that the parser reports it where it stands."""
    return f"{PLACEHOLDER_MARK}{problem}\n".encode() if columns > 1 else f"{PLACEHOLDER_MARK}{problem},\n".encode()


def scan(data: bytes, grammar: Grammar, *, columns: int, final: bool) -> Scanned:
    """Go through the records of ``data``, which begins with one.

    Unless ``final``, the last record is left for later if it might go on. Reading on from ``consumed`` with more
    data gives the same records, wherever blocks are cut.
    """
    marks = _Marks(data, grammar)
    view = memoryview(data)
    pieces: list[bytes | memoryview] = []
    clean_from = start = 0
    while (doubt := marks.first_doubt(start)) is not None:
        record_start = marks.record_start(start, doubt)
        record = grammar.read_record(data, record_start, final=final)
        if record is None:
            return Scanned([*pieces, view[clean_from:record_start]], record_start)
        if record.problem:
            pieces += [view[clean_from:record_start], placeholder(record.problem, columns=columns)]
            clean_from = record.end
        start = record.end
        if record.open_ended:
            return Scanned(pieces, start, open_ended=True)
    end = len(data) if final else marks.record_start(start, len(data))
    return Scanned([*pieces, view[clean_from:end]], end)


class _Marks:
    """Where the quotation marks and line ends of a block are, and what they mean.

    From the start of a record on, quotation marks open and close in turn. So whether a mark opens or closes,
    and whether a line end is within a cell, follows from the number of marks before it being odd or even,
    compared with that at the record's start. After a mark that isn't closed it is the other way round, so
    everything is worked out for either case, once, and then only looked up.
    """

    def __init__(self, data: bytes, grammar: Grammar) -> None:
        self.data = data
        self.grammar = grammar
        pieces = [_locate(data, offset, grammar) for offset in range(0, len(data), _CACHED_BYTES)]
        self.quotes, self.may_open, self.may_close, self.line_ends, quotes_before, self.nuls = (
            np.concatenate(parts) for parts in zip(*pieces, strict=True)
        )
        marks_before_piece = np.cumsum([0, *(len(piece.quotes) for piece in pieces[:-1])])
        self.quotes_before = quotes_before + np.repeat(marks_before_piece, [len(piece.line_ends) for piece in pieces])
        self._readings: dict[int, _Reading] = {}

    def first_doubt(self, start: int) -> int | None:
        """A place in the first record, from the one at ``start`` on, that isn't proved to be readable."""
        first_quote = int(self.quotes.searchsorted(start))
        reading = self._reading(first_quote)
        doubts = [
            _next(reading.misfits, start),
            _next(reading.overlong, start),
            _next(self.nuls, start),
            start if self._is_overlong(reading, start) else None,
            int(self.quotes[-1]) if (len(self.quotes) - first_quote) % 2 else None,
        ]
        first = min((doubt for doubt in doubts if doubt is not None), default=None)
        swallowing = self._first_swallowing(reading, start, len(self.data) if first is None else first)
        return first if swallowing is None else swallowing

    def record_start(self, start: int, position: int) -> int:
        """Where the record that holds ``position`` starts, if one starts at ``start``, which isn't after it."""
        ends = self._reading(int(self.quotes.searchsorted(start))).record_ends
        before = int(ends.searchsorted(position)) - 1
        return max(start, int(ends[before]) + 1) if before >= 0 else start

    def _reading(self, first_quote: int) -> "_Reading":
        odd = first_quote % 2
        if odd not in self._readings:
            self._readings[odd] = _Reading.of(self, odd)
        return self._readings[odd]

    def _is_overlong(self, reading: "_Reading", start: int) -> bool:
        """Whether the record at ``start`` is longer than any may be."""
        limits = self.grammar.limits
        found = _next(reading.record_ends, start)
        end = len(self.data) if found is None else found
        lines = self.line_ends.searchsorted(end) - self.line_ends.searchsorted(start) + 1
        return end - start > limits.record_bytes or bool(lines > limits.record_lines)

    def _first_swallowing(self, reading: "_Reading", start: int, stop: int) -> int | None:
        """The first quoted cell between ``start`` and ``stop`` that has other patients' lines in it."""
        low, high = reading.within.searchsorted([start, stop])
        if low == high:
            return None
        quotes, checked = self._quotes_listed, -1
        for closing in self.quotes_before[self.line_ends.searchsorted(reading.within[low:high])].tolist():
            if closing <= checked or closing >= len(quotes):
                continue
            # Marks next to each other are a doubled one, within the cell.
            opening, checked = closing - 1, closing
            while opening >= 2 and quotes[opening] == quotes[opening - 1] + 1:
                opening -= 2
            while checked + 2 < len(quotes) and quotes[checked + 1] == quotes[checked] + 1:
                checked += 2
            if self.grammar.swallows(self.data, quotes[opening], quotes[checked] + 1):
                return max(quotes[opening], start)
        return None

    @cached_property
    def _quotes_listed(self) -> list[int]:
        """A list is faster to look up one by one."""
        return self.quotes.tolist()


class _Reading(NamedTuple):
    """A block read with every even mark opening a cell, or every odd one. All positions are in rising order."""

    misfits: Positions
    """Marks that stand where none can open, or close."""
    record_ends: Positions
    """Line ends outside cells."""
    within: Positions
    """Line ends within cells."""
    overlong: Positions
    """Starts of records that are longer than any may be."""

    @classmethod
    def of(cls, marks: _Marks, odd: int) -> "_Reading":
        limits = marks.grammar.limits
        fits = marks.may_close.copy()
        fits[odd::2] = marks.may_open[odd::2]
        outside = marks.quotes_before % 2 == odd
        ends = marks.line_ends[outside]
        lines = np.append(np.flatnonzero(outside), len(marks.line_ends))
        lengths = np.diff(ends, append=len(marks.data))
        overlong = ends[(lengths > limits.record_bytes) | (np.diff(lines) > limits.record_lines)] + 1
        return cls(marks.quotes[~fits], ends, marks.line_ends[~outside], overlong)


class _Piece(NamedTuple):
    """What `_Marks` knows of one piece of a block."""

    quotes: Positions
    may_open: npt.NDArray[np.bool_]
    may_close: npt.NDArray[np.bool_]
    line_ends: Positions
    """The last byte of each line end."""
    quotes_before: Positions
    """How many quotation marks of the piece are before each of its line ends."""
    nuls: Positions


def _locate(data: bytes, offset: int, grammar: Grammar) -> _Piece:
    """Look at the piece of ``data`` at ``offset``: piece by piece, all that is needed at once stays in the cache."""
    piece = np.frombuffer(data, np.uint8, min(_CACHED_BYTES, len(data) - offset), offset)
    is_end = piece == _LF
    is_cr = piece == _CR
    if is_cr.any():
        is_cr[:-1] &= ~is_end[1:]
        is_cr[-1] &= data[offset + len(piece) : offset + len(piece) + 1] != b"\n"
        is_end |= is_cr
    quotes, line_ends = np.flatnonzero(piece == _QUOTE), np.flatnonzero(is_end)
    quotes_before = quotes.searchsorted(line_ends)
    nuls = np.flatnonzero(piece == 0) if data.find(b"\0", offset, offset + len(piece)) >= 0 else _NOWHERE
    borders = np.zeros(256, np.bool_)
    borders[[_QUOTE, _LF, _CR, ord(grammar.delimiter)]] = True
    # A mark at the edge of the data has itself for a neighbour there, which lets it open, and close for the present.
    begin, end = max(offset - 1, 0), min(offset + len(piece) + 1, len(data))
    around = np.frombuffer(data, np.uint8, end - begin, begin)
    quotes += offset
    return _Piece(
        quotes,
        borders[around[np.maximum(quotes - 1, begin) - begin]],
        borders[around[np.minimum(quotes + 1, end - 1) - begin]],
        line_ends + offset,
        quotes_before,
        nuls + offset,
    )


def _next(positions: Positions, start: int) -> int | None:
    """The first position that isn't before ``start``."""
    index = int(positions.searchsorted(start))
    return int(positions[index]) if index < len(positions) else None
