"""One block of records as rows: parsed by Arrow, with what isn't a patient taken out and what can't be read marked.

Arrow parses the many. `_fate` decides about a single record; it is asked about the few whose number of cells isn't the
usual one, or whose NHS number cell doesn't look like one.
"""

from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv

from batch_pipeline.ingest.layout import Layout
from batch_pipeline.ingest.scan import PLACEHOLDER_MARK
from batch_pipeline.rules.cells import INVISIBLE, SPACES, is_blank
from batch_pipeline.rules.headings import COUNT_LINE_PATTERN, is_count_line

_BOM: Final = b"\xef\xbb\xbf"
_NHS_NUMBER_LENGTH: Final = 10
_NOT_DATA: Final = pc.MatchSubstringOptions(f"^(?:[{INVISIBLE}{SPACES}]*|{COUNT_LINE_PATTERN})$")
"""The first filled cell of a line that isn't data, for RE2; `_fate` has the last word on such a line."""

_BLANK, _LEFT_OUT = "blank", "left out"


class Rows(NamedTuple):
    """The data rows of a block, in order.

    ``cells``: a text column for each cell of a line, named by its position; null where the cell is empty, and
    throughout a row that has a problem. ``numbers``: each row's place among the block's ``records``, from 0.
    ``problems``: each row's code or null. ``blank`` and ``left_out`` count the records that aren't data.
    """

    cells: pa.Table
    numbers: npt.NDArray[np.int64]
    problems: pa.StringArray
    records: int
    blank: int
    left_out: int


class _Parsed(NamedTuple):
    """Records with the usual number of cells, and (place in the block, text) of the others."""

    table: pa.Table
    numbers: npt.NDArray[np.int64]
    misshapen: list[tuple[int, str]]


def read_rows(pieces: Sequence[bytes | memoryview], layout: Layout, *, cut_off: bool = False) -> Rows:
    """The rows of a block that was scanned; ``cut_off``: the file ends in the middle of its last line.

    A line with fewer cells than there are headings is a row with empty cells at its end: Excel leaves out delimiters
    where the last columns of some sixteen rows are empty. Only at a file's torn end does it mean that something is lost.
    """
    parsed = _parse(pieces, layout)
    records = parsed.table.num_rows + len(parsed.misshapen)
    empty, doubtful = _doubtful(parsed.table, layout)
    fates = {row: fate for row, cells in doubtful if (fate := _fate(cells, layout))}
    torn = records - 1 if cut_off else None
    others = [(place, *_cells_and_fate(text, layout, torn=place == torn)) for place, text in parsed.misshapen]
    decided = [*fates.values(), *(fate for _, _, fate in others if fate)]
    blank, left_out = len(empty) + decided.count(_BLANK), decided.count(_LEFT_OUT)
    if not (decided or others or len(empty)):
        return Rows(parsed.table, parsed.numbers, pa.nulls(records, pa.string()), records, blank, left_out)

    kept = np.ones(parsed.table.num_rows, np.bool_)
    kept[empty] = False
    kept[list(fates)] = False
    mended = [(place, cells) for place, cells, fate in others if fate is None]
    problems = [(place, fate) for place, _, fate in others if fate] + [
        (int(parsed.numbers[row]), fate) for row, fate in fates.items()
    ]
    problems = [(place, fate) for place, fate in problems if fate not in (_BLANK, _LEFT_OUT)]
    cells, numbers, codes = _assemble(parsed, np.flatnonzero(kept), mended, problems)
    return Rows(cells, numbers, codes, records, blank, left_out)


def _fate(cells: Sequence[str], layout: Layout, *, torn: bool = False) -> str | None:
    """``blank``, ``left out``, the code of the record's problem, or None: it is a data row."""
    if all(map(is_blank, cells)):
        return _BLANK
    if is_count_line(cells):
        return _LEFT_OUT
    if (torn and len(cells) < layout.required) or not all(map(is_blank, cells[len(layout.columns) :])):
        return "wrong_number_of_cells"
    return None


def _cells_and_fate(text: str, layout: Layout, *, torn: bool) -> tuple[list[str], str | None]:
    if text.startswith(PLACEHOLDER_MARK):
        return [], text.removeprefix(PLACEHOLDER_MARK).removesuffix(layout.grammar.delimiter)
    cells = layout.grammar.cells(text)
    return cells, _fate(cells, layout, torn=torn)


def _parse(pieces: Sequence[bytes | memoryview], layout: Layout) -> _Parsed:
    data = pieces[0] if len(pieces) == 1 else b"".join(pieces)
    if bytes(data[: len(_BOM)]) == _BOM:
        data = _BOM + data  # Arrow leaves the first one out, and here it belongs to a cell
    misshapen: list[tuple[int, str]] = []

    def note(row: pa_csv.InvalidRow) -> str:
        misshapen.append((row.number - 1, row.text))
        return "skip"

    names = [str(position) for position in range(layout.width)]
    table = pa_csv.read_csv(
        pa.BufferReader(data),
        # One Arrow block and one thread: only then are the numbers of misshapen rows known.
        read_options=pa_csv.ReadOptions(column_names=names, block_size=len(data) + 1, use_threads=False),
        parse_options=pa_csv.ParseOptions(
            delimiter=layout.grammar.delimiter,
            newlines_in_values=True,
            ignore_empty_lines=False,
            invalid_row_handler=note,
        ),
        # `encoding` has checked or made the UTF-8.
        convert_options=pa_csv.ConvertOptions(
            column_types=dict.fromkeys(names, pa.string()),
            strings_can_be_null=True,
            null_values=[""],
            check_utf8=False,
        ),
    ).combine_chunks()
    usual = np.ones(table.num_rows + len(misshapen), np.bool_)
    usual[[place for place, _ in misshapen]] = False
    return _Parsed(table, np.flatnonzero(usual), misshapen)


def _doubtful(table: pa.Table, layout: Layout) -> tuple[npt.NDArray[np.int64], Iterator[tuple[int, list[str]]]]:
    """The rows whose cells are all empty, and each other row about which `_fate` is to be asked, with its cells."""
    suspects = np.flatnonzero(_not_like_a_number(table.column(layout.nhs_number)))
    some = table.take(suspects)
    first_filled = pc.call_function("coalesce", some.columns)
    empty = suspects[first_filled.is_null().to_numpy()]
    matches = pc.fill_null(pc.call_function("match_substring_regex", [first_filled], _NOT_DATA), fill_value=False)
    rows = {*suspects[matches.to_numpy()].tolist()}
    for position in range(len(layout.columns), layout.width):
        rows |= {*np.flatnonzero(table.column(position).is_valid().to_numpy()).tolist()}
    return empty, ((row, [cell or "" for cell in table.slice(row, 1).to_pylist()[0].values()]) for row in sorted(rows))


def _not_like_a_number(column: pa.ChunkedArray) -> npt.NDArray[np.bool_]:
    """Whether a cell is too short for an NHS number or doesn't begin with a digit.

    So is the cell of every line that is blank or counts patients.
    """
    cells = column.combine_chunks()
    _, offsets_buffer, text_buffer = cells.buffers()
    offsets = np.frombuffer(offsets_buffer, np.int32)[cells.offset : cells.offset + len(cells) + 1]
    short = np.diff(offsets) < _NHS_NUMBER_LENGTH
    if text_buffer is None or text_buffer.size == 0:
        return short
    text = np.frombuffer(text_buffer, np.uint8)
    first = text[np.minimum(offsets[:-1], len(text) - 1)]
    return short | (first < ord("0")) | (first > ord("9"))


def _assemble(
    parsed: _Parsed,
    kept: npt.NDArray[np.int64],
    mended: Sequence[tuple[int, list[str]]],
    problems: Sequence[tuple[int, str]],
) -> tuple[pa.Table, npt.NDArray[np.int64], pa.StringArray]:
    """Kept rows, mended ones and those with a problem (all by their place in the block) in order."""
    table = parsed.table
    if mended:
        added = [
            [cells[column] or None if column < len(cells) else None for _, cells in mended]
            for column in range(table.num_columns)
        ]
        table = pa.concat_tables([table, pa.table(added, schema=table.schema)]).combine_chunks()
    numbers = np.concatenate(
        [
            parsed.numbers[kept],
            np.array([place for place, _ in [*mended, *problems]], np.int64),
        ]
    )
    sources = np.concatenate([kept, parsed.table.num_rows + np.arange(len(mended) + len(problems))])
    order = np.argsort(numbers, kind="stable")
    no_source = sources >= table.num_rows
    codes = np.full(len(order), None, object)
    codes[len(order) - len(problems) :] = [code for _, code in problems]
    cells = table.take(pa.array(sources[order], mask=no_source[order]))
    return cells, numbers[order], pa.array(codes[order], pa.string())
