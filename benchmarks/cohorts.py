"""Made-up cohorts of any size, as the clinical systems export them: ``python -m benchmarks.cohorts --rows N``.

The same seed and arguments make the same bytes. What is in them, and in which shares, says ``benchmarks.dirt``: about 4 %
of the lines are invalid, 2 % name an earlier patient again, 30 % have an email. ``--rows`` counts data lines: preamble,
headings, blank lines and the patient count come on top.

NHS numbers are fixtures, 999 000 0000-999 999 9999, of which there are only about 900,000: in a larger cohort the
remaining lines are repeats, and become duplicates. A plan of 10 million different patients can be timed all the same with
``--never-issued``, which takes them from the whole of 9xx xxx xxxx: no number there is ever issued, but they aren't
fixtures, so such a file is made in a temporary folder for a benchmark, and never kept. There are only 1,000 fixture
mobiles, so they repeat from the 1,001st patient on; cells that no fast path decides stay as varied as in real files
(about one in sixty is different from all others).
"""

import argparse
import csv
import io
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from benchmarks import dirt, people
from benchmarks.people import Indexes

SEED = 2026
CHUNK = 100_000
_FIRST_BIRTH = date(1930, 1, 1)
_DAYS_OF_BIRTH = (date(2010, 1, 1) - _FIRST_BIRTH).days


@dataclass(frozen=True)
class Style:
    """How one system writes its exports."""

    columns: tuple[tuple[str, str], ...]
    """(heading, what `_columns` makes for it)"""
    preamble: tuple[str, ...] = ()
    counts: str | None = None
    """The last line, with ``{rows}``; None: there is none."""
    encoding: str = "utf-8"
    newline: str = "\n"


STYLES = {
    "plain": Style(
        columns=(
            ("nhs_number", "nhs_number"),
            ("first_name", "first_name"),
            ("surname", "surname"),
            ("date_of_birth", "date_of_birth"),
            ("mobile", "mobile"),
            ("telephone", "telephone"),
            ("email", "email"),
            ("date_of_death", "date_of_death"),
            ("usual_gp", "extra"),
        ),
    ),
    "emis": Style(
        preamble=(
            "Riverside Surgery (fictional)",
            '"Flu 2026/27: eligible, not yet immunised"',
            "Last run,28-Sep-2026 08:12",
            "Parent population,Currently registered patients",
            "",
        ),
        columns=(
            ("EMIS Number", "local_id"),
            ("NHS Number", "nhs_number"),
            ("Patient Name", "patient_name"),
            ("Given Name", "first_name"),
            ("Family Name", "surname"),
            ("Date of Birth", "date_of_birth"),
            ("Mobile Telephone", "mobile"),
            ("Telephone Number", "telephone"),
            ("E-mail Address", "email"),
            ("Date of Death", "date_of_death"),
            ("Usual GP", "extra"),
        ),
        counts="Patient count,{rows}",
        encoding="utf-8-sig",
        newline="\r\n",
    ),
    "systmone": Style(
        columns=(
            ("NHS number", "nhs_number"),
            ("First name", "first_name"),
            ("Surname", "surname"),
            ("Date of birth", "date_of_birth"),
            ("Deceased", "deceased"),
            ("Mobile number", "mobile"),
            ("Preferred telephone number", "telephone"),
            ("Email address", "email"),
            ("Registered GP", "extra"),
            ("Patient count", "one"),
        ),
        encoding="cp1252",
        newline="\r\n",
    ),
}

_NEEDS_QUOTES = re.compile('[,"\r\n]')
_NOT_IN_WINDOWS_1252 = {"\u200b": "\u00a0", "ł": "l", **{chr(dirt.FULL_WIDTH_ZERO + d): str(d) for d in range(10)}}


@dataclass(frozen=True)
class Chunk:
    """Consecutive lines of a cohort: who each is about, and what became of it."""

    identity: Indexes
    """Whose NHS number, name and date of birth stand on the line."""
    details: Indexes
    """Whose phones, email and the rest."""
    lines: Indexes
    """Index into ``dirt.LINES``."""
    between: Indexes
    """Index into ``dirt.BETWEEN``."""


def chunks(rows: int, *, seed: int = SEED, first_person: int = 0) -> Iterator[Chunk]:
    """The lines of a cohort: line i is about patient ``first_person + i``, or about an earlier one again."""
    names = [kind.name for kind in dirt.LINES]
    for start in range(0, rows, CHUNK):
        line = np.arange(start, min(start + CHUNK, rows))
        own = line + first_person
        lines = people.kinds(dirt.LINES, line, seed=seed, salt=1_000 + 2 * first_person)
        earlier = np.maximum(own - 1 - people.chosen(own, 400, seed=seed, salt=1), first_person)
        again = lines == names.index("an earlier patient again")
        other_details = lines == names.index("an earlier patient again, other details")
        yield Chunk(
            identity=np.where(again | other_details, earlier, own),
            details=np.where(again, earlier, own),
            lines=lines,
            between=people.kinds(dirt.BETWEEN, line, seed=seed, salt=1_001 + 2 * first_person),
        )


def write(
    out: BinaryIO,
    rows: int,
    *,
    style: str = "plain",
    seed: int = SEED,
    first_person: int = 0,
    never_issued: bool = False,
) -> None:
    """Write a cohort of ``rows`` data lines, a chunk at a time (memory doesn't grow with ``rows``)."""
    shape = STYLES[style]
    head = [*shape.preamble, ",".join(heading for heading, _ in shape.columns), ""]
    out.write(shape.newline.join(head).encode(shape.encoding))
    encoding = "utf-8" if shape.encoding == "utf-8-sig" else shape.encoding  # the byte order mark comes once
    for chunk in chunks(rows, seed=seed, first_person=first_person):
        lines = _lines(chunk, shape, seed=seed, never_issued=never_issued)
        out.write(_encoded(lines, encoding))
    if shape.counts is not None:
        out.write((shape.counts.format(rows=rows) + shape.newline).encode(encoding))


def _lines(chunk: Chunk, shape: Style, *, seed: int, never_issued: bool) -> pa.StringArray:
    """Each line as it stands in the file, with its line end and what follows it."""
    made = _columns(chunk, seed=seed, never_issued=never_issued)
    cells = [made[column]() for _, column in shape.columns]
    line = _join(*cells, ",")
    names = [kind.name for kind in dirt.LINES]
    too_many = pa.array(chunk.lines == names.index("a cell too many"))
    line = _where(too_many, _join(line, "stray", ","), line)
    cut_off = pa.array(chunk.lines == names.index("cut off"))
    line = _where(cut_off, _join(*cells[:3], ","), line)
    end = shape.newline
    ends = [end, end * 2, end + "," * (len(shape.columns) - 1) + end]
    return _join(line, pa.array(ends).take(pa.array(chunk.between)), "")


def _encoded(lines: pa.StringArray, encoding: str) -> bytes | memoryview:
    """The lines as one run of bytes: what Arrow keeps them as."""
    offsets = np.frombuffer(lines.buffers()[1], np.int32)
    first, last = offsets[lines.offset], offsets[lines.offset + len(lines)]
    raw = memoryview(lines.buffers()[2])[first:last]
    if encoding == "utf-8":
        return raw
    text = str(raw, "utf-8")
    for character, nearest in _NOT_IN_WINDOWS_1252.items():
        text = text.replace(character, nearest)
    return text.encode(encoding)


def _columns(chunk: Chunk, *, seed: int, never_issued: bool) -> dict[str, Callable[[], pa.Array]]:
    """What each column of a style is made by; salts keep the columns independent of one another."""
    who, what = chunk.identity, chunk.details

    def of(table: Sequence[people.Kind], salt: int, persons: Indexes = who) -> Indexes:
        return people.kinds(table, persons, seed=seed, salt=salt)

    def name(choices: int, salt: int) -> Indexes:
        return people.chosen(who, choices, seed=seed, salt=salt)

    first_names, surnames = name(len(dirt.FIRST_NAMES), 2), name(len(dirt.SURNAMES), 3)
    surname_kinds = of(dirt.SURNAME_CELLS, SALTS["surname"])
    return {
        "local_id": lambda: pa.array(who + 10_001).cast(pa.string()),
        "nhs_number": lambda: _nhs_numbers(who, of(dirt.NHS_NUMBERS, SALTS["nhs_number"]), never_issued=never_issued),
        "patient_name": lambda: _patient_names(first_names, surnames, name(len(dirt.TITLES), 4)),
        "first_name": lambda: _take(_cells(dirt.FIRST_NAMES), first_names),
        "surname": lambda: _or_whole(
            _take(_cells(dirt.SURNAMES), surnames), surname_kinds, [kind.whole for kind in dirt.SURNAME_CELLS]
        ),
        "date_of_birth": lambda: _dates(name(_DAYS_OF_BIRTH, 5), of(dirt.DATES_OF_BIRTH, SALTS["date_of_birth"])),
        "mobile": lambda: _phones("mobile", what, of(dirt.PHONES, SALTS["mobile"], what)),
        "telephone": lambda: _phones("telephone", what, of(dirt.OTHER_PHONES, SALTS["telephone"], what)),
        "email": lambda: _emails(what, of(dirt.EMAILS, SALTS["email"], what), seed=seed),
        "date_of_death": lambda: _take(
            _cells([kind.date_of_death for kind in dirt.LIVES]), of(dirt.LIVES, SALTS["life"])
        ),
        "deceased": lambda: _take(_cells([kind.deceased for kind in dirt.LIVES]), of(dirt.LIVES, SALTS["life"])),
        "extra": lambda: _take(
            _cells([kind.whole or "" for kind in dirt.EXTRA_CELLS]), of(dirt.EXTRA_CELLS, SALTS["extra"], what)
        ),
        "one": lambda: pa.repeat(pa.scalar("1"), len(who)),
    }


SALTS = {
    "surname": 10,
    "nhs_number": 11,
    "date_of_birth": 12,
    "mobile": 13,
    "telephone": 14,
    "email": 15,
    "life": 16,
    "extra": 17,
    "app": 18,
    "opt_out": 19,
}
"""What tells one column's shuffle from another's (``people.kinds``)."""


def _cells(texts: Sequence[str]) -> pa.Array:
    """The texts as CSV cells, in quotes where they need them."""
    return pa.array([_cell(text) for text in texts])


def _cell(text: str) -> str:
    if not _NEEDS_QUOTES.search(text):
        return text
    written = io.StringIO()
    csv.writer(written).writerow([text, ""])
    return written.getvalue().removesuffix(",\r\n")


def _join(*parts: pa.Array | str) -> pa.Array:
    """The texts of each row in one; the last part goes between the others."""
    return pc.call_function("binary_join_element_wise", list(parts))


def _where(condition: pa.Array, yes: pa.Array, no: pa.Array) -> pa.Array:
    return pc.call_function("if_else", [condition, yes, no])


def _take(vocabulary: pa.Array, indexes: Indexes) -> pa.Array:
    return vocabulary.take(pa.array(indexes))


def _or_whole(texts: pa.Array, kinds: Indexes, wholes: Sequence[str | None]) -> pa.Array:
    """``texts``, and where the kind has a whole cell of its own, that."""
    replaced = pa.array([whole is not None for whole in wholes]).take(pa.array(kinds))
    return _where(replaced, _take(_cells([whole or "" for whole in wholes]), kinds), texts)


def _nhs_numbers(who: Indexes, kinds: Indexes, *, never_issued: bool) -> pa.Array:
    numbers = people.nhs_numbers(who, never_issued=never_issued)
    separators = _take(pa.array([kind.separator for kind in dirt.NHS_NUMBERS]), kinds)
    tail = np.array([_TAILS.index(kind.tail) for kind in dirt.NHS_NUMBERS])[kinds]
    threes, fours = _digits()
    texts = _join(
        _take(threes, numbers // 10_000_000),
        _take(threes, numbers // 10_000 % 1_000),
        _take(fours, tail * 10_000 + numbers % 10_000),
        separators,
    )
    return _or_whole(texts, kinds, [kind.whole for kind in dirt.NHS_NUMBERS])


_TAILS = ("right", "wrong", "short", "letter")


@lru_cache
def _digits() -> tuple[pa.Array, pa.Array]:
    """000-999, and 0000-9999 with each of ``_TAILS``."""
    fours = [f"{n:04}" for n in range(10_000)]
    wrong = [f"{four[:3]}{(int(four[3]) + 1) % 10}" for four in fours]
    return (
        pa.array([f"{n:03}" for n in range(1_000)]),
        pa.array([*fours, *wrong, *(four[:3] for four in fours), *(f"{four[0]}A{four[2:]}" for four in fours)]),
    )


def _patient_names(first_names: Indexes, surnames: Indexes, titles: Indexes) -> pa.Array:
    """``"SMITH, Jane (Mrs)"``: always in quotes, as EMIS writes them."""
    return _join(
        _take(pa.array([f'"{surname.upper()}, ' for surname in dirt.SURNAMES]), surnames),
        _take(pa.array(dirt.FIRST_NAMES), first_names),
        _take(pa.array([f' ({title})"' for title in dirt.TITLES]), titles),
        "",
    )


def _dates(days: Indexes, kinds: Indexes) -> pa.Array:
    formats, every = _written_dates()
    place = np.array([formats.index(kind.format or formats[0]) for kind in dirt.DATES_OF_BIRTH])[kinds]
    return _or_whole(_take(every, place * _DAYS_OF_BIRTH + days), kinds, [kind.whole for kind in dirt.DATES_OF_BIRTH])


@lru_cache
def _written_dates() -> tuple[tuple[str, ...], pa.Array]:
    """The formats, and every day in the first format, then every day in the second, ..."""
    formats = tuple(kind.format for kind in dirt.DATES_OF_BIRTH if kind.format)
    days = [_FIRST_BIRTH + timedelta(days=n) for n in range(_DAYS_OF_BIRTH)]
    return formats, pa.array([day.strftime(written) for written in formats for day in days])


def _phones(column: str, who: Indexes, kinds: Indexes) -> pa.Array:
    return _take(_written_phones(column), kinds * dirt.VARIANTS + people.phone_variants(who, dirt.VARIANTS))


@lru_cache
def _written_phones(column: str) -> pa.Array:
    """Every variant of every kind, a kind after the other."""
    table = {"mobile": dirt.PHONES, "telephone": dirt.OTHER_PHONES}[column]
    return _cells([kind.write(n % 1_000, n // 1_000) for kind in table for n in range(dirt.VARIANTS)])


def _emails(who: Indexes, kinds: Indexes, *, seed: int) -> pa.Array:
    """An address of one's own for each person: a name, and the person's number."""
    first_parts = pa.array([f"{name}." for name in ("pat", "sam", "alex", "chris", "jo", "kim", "lee", "o'sam")])
    texts = _join(
        _take(_cells([kind.before for kind in dirt.EMAILS]), kinds),
        _take(first_parts, people.chosen(who, len(first_parts), seed=seed, salt=6)),
        pa.array(who).cast(pa.string()),
        _take(_cells([kind.after for kind in dirt.EMAILS]), kinds),
        "",
    )
    return _or_whole(texts, kinds, [kind.whole for kind in dirt.EMAILS])


def main(arguments: Sequence[str] | None = None) -> int:
    """Write a cohort, or the samples in ``examples/``."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.cohorts", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--rows", type=int, help="data lines")
    parser.add_argument("--style", choices=sorted(STYLES), default="plain")
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument(
        "--never-issued", action="store_true", help="for benchmarks: NHS numbers from all of 9xx xxx xxxx"
    )
    parser.add_argument("--out", type=Path, help="the file to write; without it, standard output")
    parser.add_argument("--examples", action="store_true", help="make the files in examples/ again")
    chosen = parser.parse_args(arguments)
    if chosen.examples:
        from benchmarks import samples

        samples.write_all(Path(__file__).parent.parent / "examples")
        return 0
    if chosen.rows is None or chosen.rows < 1:
        parser.error("say how many lines with --rows N, or --examples")
    if chosen.rows > people.FIXTURE_NUMBERS and not chosen.never_issued:
        sys.stderr.write(
            f"Fixture NHS numbers are {people.FIXTURE_NUMBERS:,}: the lines after that repeat them (see --never-issued).\n"
        )
    out = cast("BinaryIO", sys.stdout.buffer) if chosen.out is None else chosen.out.open("wb")
    with out:
        write(out, chosen.rows, style=chosen.style, seed=chosen.seed, never_issued=chosen.never_issued)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
