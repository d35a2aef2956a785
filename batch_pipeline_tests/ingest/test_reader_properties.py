"""Any file made of good and bad lines: every data line comes out once, in order, with its row number."""

import codecs
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batch_pipeline.errors import Refused
from batch_pipeline.ingest.grammar import Limits
from batch_pipeline.ingest.reader import open_cohort
from batch_pipeline_tests.ingest.oracle import Rules, expected

HEADINGS = ("NHS Number", "Email", "Notes", "Clinic")
COLUMNS = ("nhs_number", "email", "notes", "clinic")
DELIMITERS = [",", ";", "\t"]
ENCODINGS = {
    "utf-8": ("utf-8", b""),
    "utf-8-sig": ("utf-8", codecs.BOM_UTF8),
    "utf-16-le": ("utf-16-le", codecs.BOM_UTF16_LE),
    "utf-16-be": ("utf-16-be", codecs.BOM_UTF16_BE),
    "windows-1252": ("cp1252", b""),
}
LINE_ENDS = ["\n", "\r\n", "\r"]
PLAIN = st.sampled_from(
    ["", "9990000018", "999 000 0026", " ", "a", "O\u2019Brien", "é", 'a"b', 'x""', " =1+1", "12,5", "7700900123"]
)
INSIDE = st.lists(
    st.sampled_from(
        ["a", ",", ";", "\t", '""', "\n", "\r\n", "\r", "é", "9990000018", "\n9990000018,", " ", "\x0b", "\x0c"]
    ),
    max_size=6,
).map("".join)
BROKEN = st.sampled_from(['"', '"a', '"a"b', '"a""', '""a', '"\n', 'a"', '","', '"9990000018', "\0"])
SOUP = st.text(st.sampled_from(list('",;\t\n\r a90\0é\x85\x0b')), max_size=12)


@st.composite
def lines(draw: st.DrawFn, delimiter: str, columns: int) -> str:
    """One line: mostly a good one, else anything that files were seen to hold."""
    good = st.one_of(PLAIN.filter(lambda cell: delimiter not in cell), INSIDE.map(lambda text: f'"{text}"'))
    row = st.lists(good, min_size=columns, max_size=columns)
    kinds = {
        "good": row,
        "cells": st.lists(st.one_of(good, st.just("")), max_size=columns + 3),
        "broken": st.lists(st.one_of(good, BROKEN), min_size=columns, max_size=columns),
        "blank": st.sampled_from([[""], [" "], ["\u00a0"]]),
        "commas": st.lists(st.just(""), min_size=1, max_size=columns + 3),
        "count": st.integers(0, 9999).map(lambda count: ["Patient count", str(count)]),
        "soup": SOUP.map(lambda text: [text]),
    }
    return delimiter.join(draw(kinds[draw(st.sampled_from(["good"] * 6 + sorted(kinds)))]))


@st.composite
def files(draw: st.DrawFn, delimiter: str, columns: int) -> str:
    line_end = draw(st.sampled_from(LINE_ENDS))
    other_ends = st.sampled_from([line_end] * 9 + LINE_ENDS)
    text = delimiter.join(HEADINGS[:columns]) + line_end
    for line in draw(st.lists(lines(delimiter, columns), min_size=1, max_size=14)):
        text += line + draw(other_ends)
    return text.rstrip("\r\n") if draw(st.booleans()) else text


def read(data: bytes, limits: Limits, columns: int) -> tuple[list[tuple[int, str | None, list[str | None]]], int, int]:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "cohort.csv"
        path.write_bytes(data)
        reader = open_cohort(path, label="cohort.csv", max_bytes=10**6, limits=limits)
        rows = [row for batch in reader.batches() for row in batch.to_pylist()]
    return (
        [(row["line"], row["problem"], [row[name] for name in COLUMNS[:columns]]) for row in rows],
        reader.blank_lines,
        reader.left_out,
    )


@settings(max_examples=150)
@given(st.data())
def test_every_data_line_comes_out_once_in_order_with_its_row_number(data: st.DataObject) -> None:
    delimiter = data.draw(st.sampled_from(DELIMITERS))
    columns = data.draw(st.integers(1 if delimiter == "," else 2, len(HEADINGS)))
    text = data.draw(files(delimiter, columns))
    codec, bom = ENCODINGS[data.draw(st.sampled_from(sorted(ENCODINGS)))]
    text = text.encode(codec, errors="ignore").decode(codec)
    limits = Limits(
        block_bytes=data.draw(st.integers(1, 300)),
        record_bytes=data.draw(st.sampled_from([60, 128 * 1024])),
        record_lines=data.draw(st.sampled_from([2, 3, 200])),
    )
    want = expected(text, Rules(delimiter, columns, limits.record_bytes, limits.record_lines))
    content = bom + text.encode(codec)
    if want.rows:
        assert read(content, limits, columns) == want
    else:
        with pytest.raises(Refused, match="no patients after the headings on line 1"):
            read(content, limits, columns)
