"""A cohort file as a stream of Arrow batches in which every data line is, once, with its row number (SPEC 2.0, 2.1).

`open_cohort` finds out what the file is; `CohortReader.batches` reads it, block by block, in bounded memory.
"""

import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from stat import S_ISDIR, S_ISREG
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from batch_pipeline.errors import Refused
from batch_pipeline.ingest.encoding import Text, recognise
from batch_pipeline.ingest.grammar import Limits
from batch_pipeline.ingest.layout import Layout, find_layout
from batch_pipeline.ingest.rows import Rows, read_rows
from batch_pipeline.ingest.scan import scan
from batch_pipeline.rules.cells import is_blank
from batch_pipeline.rules.headings import FIELDS

_LINE_END: Final = re.compile(rb"\r\n?|\n")


@dataclass(frozen=True)
class CohortShape:
    """What was found out about a file, for people to see.

    ``encoding``: ``utf-8``, ``utf-8-sig``, ``utf-16-le``, ``utf-16-be`` or ``windows-1252``. ``headings_line``: their row.
    ``columns``: the canonical or personalisation name of each of ``headings``; columns left out are in neither.
    """

    encoding: str
    delimiter: str
    headings_line: int
    headings: tuple[str, ...]
    columns: tuple[str, ...]


@dataclass
class CohortReader:
    """A cohort file that has been understood.

    ``blank_lines`` and ``left_out`` (lines above the headings, lines that count patients) are final once `batches` is
    exhausted: then every row of the file is a batch's row, blank, left out, or the headings.
    """

    text: Text
    layout: Layout
    label: str
    shape: CohortShape = field(init=False)
    schema: pa.Schema = field(init=False)
    blank_lines: int = field(init=False, default=0)
    left_out: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        kept = [column for column in self.layout.columns if column.name]
        self.shape = CohortShape(
            encoding=self.text.encoding,
            delimiter=self.layout.grammar.delimiter,
            headings_line=self.layout.headings_line,
            headings=tuple(column.heading.strip() for column in kept),
            columns=tuple(column.name for column in kept if column.name),
        )
        extra = [name for name in self.shape.columns if name not in FIELDS]
        self.schema = pa.schema(
            [("line", pa.int32()), ("problem", pa.string()), *((name, pa.string()) for name in (*FIELDS, *extra))]
        )

    def batches(self) -> Iterator[pa.RecordBatch]:
        """The data rows, in order: ``line``, ``problem``, the canonical fields, the personalisation fields.

        Raises `Refused` at the end if there were none, or if the file changed in the meantime.
        """
        self.blank_lines, self.left_out = self.layout.blank_lines, self.layout.left_out
        line = self.layout.headings_line + 1
        data_rows = 0
        for block in _one_ahead(self._blocks()):
            rows = read_rows(block.pieces, self.layout, cut_off=block.cut_off)
            self.blank_lines += rows.blank
            self.left_out += rows.left_out
            if len(rows.numbers):
                yield self._batch(rows, line)
            line += rows.records
            data_rows += len(rows.numbers)
        if not self.text.unchanged():
            raise Refused(f"{self.label} changed while it was read; submit it again when it is complete.")
        if not data_rows:
            raise Refused(
                f"{self.label}: no patients after the headings on line {self.layout.headings_line}; export the list again."
            )

    def without_empty_columns(self) -> "CohortReader":
        """The same without the columns that have no heading and hold nothing; reads the file if there may be any."""
        unnamed = {column.name for column in self.layout.columns if column.unnamed}
        for batch in self._batches_if_any() if unnamed else ():
            unnamed -= {name for name in unnamed if not all(map(is_blank, batch.column(name).drop_null().to_pylist()))}
            if not unnamed:
                break
        columns = tuple(
            column._replace(name=None) if column.name in unnamed else column for column in self.layout.columns
        )
        return CohortReader(self.text, replace(self.layout, columns=columns), self.label)

    def _batches_if_any(self) -> Iterator[pa.RecordBatch]:
        with suppress(Refused):
            yield from self.batches()

    def _blocks(self) -> Iterator["_Block"]:
        """The data records, made readable, block by block."""
        grammar, width = self.layout.grammar, self.layout.width
        above, rest, skipping = self.layout.data_start, b"", False
        for chunk in chain(self.text.blocks(grammar.limits.block_bytes), [None]):
            data = rest + (chunk or b"")[above:]
            above = max(0, above - len(chunk or b""))
            # A CR may be half of a line end: it waits for what follows.
            held = b"\r" if chunk is not None and data.endswith(b"\r") else b""
            data = data.removesuffix(held)
            if skipping:
                line_end = _LINE_END.search(data)
                data, skipping = (data[line_end.end() :], False) if line_end else (b"", True)
            if not data:
                rest = held
                continue
            scanned = scan(data, grammar, columns=width, final=chunk is None)
            skipping = skipping or scanned.open_ended
            rest = data[scanned.consumed :] + held
            pieces = [piece for piece in scanned.pieces if len(piece)]
            if pieces:
                yield _Block(pieces, cut_off=chunk is None and not data.endswith((b"\n", b"\r")))

    def _batch(self, rows: Rows, line: int) -> pa.RecordBatch:
        """Rows as the schema has them; ``line`` is the row number of the block's first record."""
        arrays: dict[str, pa.Array] = {
            "line": pa.array((rows.numbers + line).astype(np.int32)),
            "problem": rows.problems,
        }
        cells = {column.position: rows.cells.column(column.position).combine_chunks() for column in self.layout.columns}
        arrays |= {column.name: cells[column.position] for column in self.layout.columns if column.name}
        for column in self.layout.columns:
            if column.fills:
                arrays[column.fills] = pc.call_function("coalesce", [arrays[column.fills], cells[column.position]])
        nothing = pa.nulls(len(rows.numbers), pa.string())
        return pa.record_batch([arrays.get(name, nothing) for name in self.schema.names], schema=self.schema)


@dataclass(frozen=True, slots=True)
class _Block:
    """Records to be parsed together; ``cut_off``: the last one is the file's last line, which has no end."""

    pieces: list[bytes | memoryview]
    cut_off: bool


def _one_ahead(blocks: Iterator[_Block]) -> Iterator[_Block]:
    """The same, with the next one made ready by another thread in the meantime; numpy and Arrow let both run."""
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="cohort") as pool:
        coming = pool.submit(next, blocks, None)
        while (block := coming.result()) is not None:
            coming = pool.submit(next, blocks, None)
            yield block


def open_cohort(path: Path, *, label: str, max_bytes: int, limits: Limits | None = None) -> CohortReader:
    """Find out encoding, delimiter and headings of a cohort file.

    ``label`` is the file's name in messages. Raises `Refused` for a file that can't be understood at all: missing, empty,
    over ``max_bytes``, not text, without a heading for the NHS number, or with headings that contradict each other.
    """
    limits = limits or Limits()
    try:
        _refuse_by_size(path, label, max_bytes)
        text = recognise(path, label=label)
        reader = CohortReader(text, _layout(text, label, limits), label)
        return reader.without_empty_columns()
    except OSError as error:
        raise Refused(f"{label} can't be read ({error.strerror}); check that it is there and may be read.") from error


def _refuse_by_size(path: Path, label: str, max_bytes: int) -> None:
    found = path.stat()
    if not S_ISREG(found.st_mode):
        what = "a folder" if S_ISDIR(found.st_mode) else "not a file"
        raise Refused(f"{label} is {what}; name the CSV file itself.")
    if found.st_size > max_bytes:
        raise Refused(
            f"{label} has {found.st_size:,} bytes and at most {max_bytes:,} are taken; split it into several batches."
        )
    if found.st_size == 0:
        raise Refused(f"{label} is empty; export the list again.")


def _layout(text: Text, label: str, limits: Limits) -> Layout:
    head = bytearray()
    blocks = text.blocks(min(limits.block_bytes, limits.head_bytes))
    for block in blocks:
        head += block
        if len(head) >= limits.head_bytes:
            break
    whole = next(blocks, None) is None
    data = bytes(head)
    return find_layout(data if whole else data.removesuffix(b"\r"), whole=whole, label=label, limits=limits)
