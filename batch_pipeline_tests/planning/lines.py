"""Files of good and bad lines for hypothesis, and what becomes of each line: counted by hand, cell by cell."""

import csv
import io
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from hypothesis import strategies as st

from batch_pipeline_tests.ledger.given import nhs_number
from batch_pipeline_tests.planning.oracle import EVERYTHING, Case, Expected, expected
from batch_pipeline_tests.planning.worlds import CELLS, e164

# ---- what a cell says: the text, and what the SPEC makes of it ------------------------------------------------------

NOTHING = ("", " ", "-", "nan", "NULL", "\u200b", "\u00a0")


def _split(number: str, mark: str) -> str:
    return f"{number[:3]}{mark}{number[3:6]}{mark}{number[6:]}"


WRITTEN: Sequence[Callable[[str], str]] = (
    lambda number: number,
    lambda number: _split(number, " "),
    lambda number: _split(number, "-"),
    lambda number: _split(number, "\u00a0"),
    lambda number: number.replace("0", "O"),
    lambda number: f" {number}\u200b",
)
"""Ways to write a good NHS number."""

# reason of the rejection, for NHS numbers that are none.
BAD_NUMBERS = {
    **dict.fromkeys(NOTHING, "nhs_number_missing"),
    **dict.fromkeys(("9990000011", "999000001", "99900000180", "1111111111"), "nhs_number_invalid"),
    **dict.fromkeys(("9.99E+09", "no number", "999 000 0018 (wife)"), "nhs_number_invalid"),
}
# None: a good one; otherwise the reason of the rejection; "missing" rejects only where a link asks for it.
BIRTHS = {
    **dict.fromkeys(("31/01/1980", "1980-01-31", "31-Jan-1980", "1/2/1900", "01/10/2026"), None),
    **dict.fromkeys(NOTHING, "missing"),
    **dict.fromkeys(("31/02/1980", "01/31/1980", "31/01/2099", "31/12/1899", "long ago", "02/10/2026"), "invalid"),
}
PHONES: Mapping[str, tuple[str, str | None]] = {
    **dict.fromkeys(NOTHING, ("none", None)),
    "07700 900001": ("mobile", e164(1)),
    "+44 (0) 7700-900002": ("mobile", e164(2)),
    "7700900003": ("mobile", e164(3)),
    "O77OO 9OOOO4": ("mobile", e164(4)),
    "00447700900001": ("mobile", e164(1)),
    "020 7946 0018": ("landline", None),
    "01632 960001": ("not_uk", None),  # Ofcom's made-up area code is no number to libphonenumber
    "0808 157 0001": ("not_mobile", None),
    "070 1234 5678": ("not_mobile", None),
    "+33 1 99 00 12 34": ("not_uk", None),
    "07700 9000": ("not_uk", None),
    "4.85777E+09": ("not_uk", None),
    "07700 900001 / 07700 900002": ("not_uk", None),
    "07700 900001 (wife)": ("not_uk", None),
}
EMAILS: Mapping[str, tuple[str, str | None]] = {
    **dict.fromkeys(NOTHING, ("none", None)),
    "ash@example.org": ("good", "ash@example.org"),
    "<bay@example.org>;": ("good", "bay@example.org"),
    " cas@Example.org\u200b": ("good", "cas@example.org"),
    "ash@example.org (wife)": ("bad", None),
    "ash@example.org, bay@example.org": ("bad", None),
    "ash at example.org": ("bad", None),
}
DEATHS = {**dict.fromkeys(NOTHING, False), **dict.fromkeys(("01/02/2020", "last year", "0"), True)}
DECEASED = {
    **dict.fromkeys((*NOTHING, "N", "no", "FALSE", "0"), False),
    **dict.fromkeys(("Y", "yes", "True", "1", "perhaps"), True),
}

# ---- lines ---------------------------------------------------------------------------------------------------------

PATIENTS = 8
"""So few that many lines are of the same."""


@dataclass(frozen=True)
class Line:
    """One record of a file. ``number``: of the patient, None where the NHS number is none."""

    cells: tuple[str, ...]
    number: int | None = None
    fate: str = "data"
    """``data``, ``blank``, ``count`` (both no data), or a code of an unreadable line."""
    kept: int = len(CELLS)
    """How many cells are written: Excel leaves out delimiters at the end of a line."""

    @property
    def said(self) -> tuple[str, ...]:
        """The cells, those that weren't written being empty."""
        return tuple(cell if place < self.kept else "" for place, cell in enumerate(self.cells))


def _mostly(usual: str, cells: Mapping[str, Any]) -> st.SearchStrategy[str]:
    return st.one_of(st.just(usual), st.sampled_from(sorted(cells)))


@st.composite
def _data(draw: st.DrawFn) -> Line:
    number = draw(st.one_of(*[st.integers(0, PATIENTS - 1)] * 5, st.none()))
    written = draw(st.sampled_from(sorted(BAD_NUMBERS) if number is None else WRITTEN))
    cells = (
        written if isinstance(written, str) else written(nhs_number(number or 0)),
        draw(st.sampled_from(["GREEN, Ash", "", "Null", "=cmd|' /C calc'!A0", 'O"Hara, "Bo"', "two\nlines"])),
        draw(_mostly("31/01/1980", BIRTHS)),
        *(draw(_mostly("", PHONES)) for _ in range(3)),
        draw(_mostly("", EMAILS)),
        draw(_mostly("", DEATHS)),
        draw(_mostly("", DECEASED)),
    )
    return Line(cells, number, kept=draw(st.sampled_from([len(cells)] * 4 + [3, 6])))


# What is left of a line cut short may say nothing: such a line is blank, and stands below.
_DATA = _data().filter(lambda line: "".join(line.said).strip(" \u00a0\u200b") != "")
_ODD = st.sampled_from(
    [
        Line((), fate="blank"),
        Line(("",) * len(CELLS), fate="blank"),
        Line((" ", "\u00a0", *("",) * (len(CELLS) - 2)), fate="blank"),
        Line(("Patient count", "12"), fate="count"),
        Line((nhs_number(1), *("x",) * len(CELLS)), fate="wrong_number_of_cells", kept=99),
        Line(('"GREEN" Ash', *("",) * (len(CELLS) - 1)), fate="text_after_quote"),
    ]
)


@dataclass(frozen=True)
class File:
    """A cohort's lines, how they are written, and what is known of the patients besides."""

    lines: Sequence[Line]
    delimiter: str = ","
    line_end: str = "\r\n"
    encoding: str = "utf-8"
    preamble: Sequence[str] = ()
    message: str = "simple"
    needs_date_of_birth: bool = False
    organisation: str = "gp"
    notified: frozenset[int] = frozenset()
    out: Mapping[int, frozenset[str]] = field(default_factory=dict)
    marked: frozenset[int] = frozenset()
    failed: frozenset[int] = frozenset()
    had: frozenset[int] = frozenset()

    @property
    def content(self) -> bytes:
        """The file's bytes."""
        text = io.StringIO(newline="")
        text.writelines(f"{line}{self.line_end}" for line in self.preamble)
        writer = csv.writer(text, delimiter=self.delimiter, lineterminator=self.line_end)
        writer.writerow(CELLS.values())
        for line in self.lines:
            if line.fate == "text_after_quote":  # no writer would
                text.write(self.delimiter.join(line.cells) + self.line_end)
            else:
                writer.writerow(line.cells[: line.kept])
        return text.getvalue().encode(self.encoding)


def files() -> st.SearchStrategy[File]:
    """Files with at least one line of data."""
    some = st.frozensets(st.integers(0, PATIENTS - 1))
    channels = st.one_of(st.just(EVERYTHING), st.frozensets(st.sampled_from(sorted(EVERYTHING)), min_size=1))
    return st.builds(
        File,
        # Left to itself, hypothesis makes files of one line or two.
        lines=st.one_of(
            *[st.lists(st.one_of(*[_DATA] * 6, _ODD), min_size=20, max_size=40)] * 4, st.lists(_DATA, min_size=1)
        ),
        delimiter=st.sampled_from(",;\t"),
        line_end=st.sampled_from(["\r\n", "\n"]),
        encoding=st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]),
        preamble=st.sampled_from([(), ("Flu list of Riverside", "")]),
        message=st.sampled_from(["simple", "self_book"]),
        needs_date_of_birth=st.booleans(),
        organisation=st.sampled_from(["gp", "non_gp"]),
        notified=some,
        out=st.dictionaries(st.integers(0, PATIENTS - 1), channels, max_size=3),
        marked=st.frozensets(st.integers(0, PATIENTS - 1), max_size=1),
        failed=st.frozensets(st.integers(1, 4), max_size=2),
        had=some,
    )


# ---- what becomes of them -------------------------------------------------------------------------------------------


@dataclass
class Accounts:
    """Every line's one place, and the plan's figures."""

    rejected: dict[int, str] = field(default_factory=dict)
    duplicates: dict[int, int] = field(default_factory=dict)
    patients: dict[int, Expected] = field(default_factory=dict)
    """By the line that stays."""
    figures: dict[str, Any] = field(default_factory=dict)


def _rejection(line: Line, file: File) -> str | None:
    if line.fate != "data":
        return line.fate
    if line.number is None:
        return BAD_NUMBERS[line.said[0]]
    birth = BIRTHS[line.said[2]]
    if birth == "missing" and not file.needs_date_of_birth:
        return None
    return birth and f"date_of_birth_{birth}"


def _phone(line: Line, failed: frozenset[int]) -> tuple[str, str | None]:
    """As a case of the table: the first usable mobile, or what says most about why there is none."""
    found = [PHONES[cell] for cell in line.said[3:6]]
    for kind, number in found:
        if kind == "mobile":
            likely = number in {e164(each) for each in failed}
            return ("likely_to_fail" if likely else "mobile"), number
    kinds = {kind for kind, _ in found}
    most_telling = next((kind for kind in ("not_uk", "landline", "not_mobile") if kind in kinds), "none")
    return {"not_uk": "foreign"}.get(most_telling, most_telling), None


def _usable(line: Line) -> bool:
    return EMAILS[line.said[6]][0] == "good" or _phone(line, frozenset())[1] is not None


def _contact(line: Line) -> tuple[Any, ...]:
    return (_phone(line, frozenset()), EMAILS[line.said[6]])


def _case(line: Line, number: int, file: File, dead: set[int]) -> Case:
    app = "on" if number in file.notified else "none"
    return Case(
        file.organisation,
        "england",
        file.message,
        EMAILS[line.said[6]][0],
        app,
        _phone(line, file.failed)[0],
        deceased=number in dead,
        unable="exit_coded" if number in file.marked else None,
        opted_out=file.out.get(number, frozenset()),
    )


def accounts_for(file: File) -> Accounts:
    """What the SPEC makes of the file."""
    first = len(file.preamble) + 2
    data = {first + n: line for n, line in enumerate(file.lines) if line.fate not in ("blank", "count")}
    found = Accounts(rejected={at: why for at, line in data.items() if (why := _rejection(line, file))})
    good = {at: line for at, line in data.items() if at not in found.rejected}
    # "deceased on any line counts for the patient": on one that is rejected, too
    dead = {
        line.number
        for line in data.values()
        if line.number is not None and (DEATHS[line.said[7]] or DECEASED[line.said[8]])
    }
    by_patient: dict[int, list[int]] = {}
    for at, line in good.items():
        assert line.number is not None
        by_patient.setdefault(line.number, []).append(at)
    disagreeing = 0
    for number, own in by_patient.items():
        kept = next((at for at in own if _usable(good[at])), own[0])
        others = [at for at in own if at != kept]
        found.duplicates |= dict.fromkeys(others, kept)
        disagreeing += sum(_contact(good[at]) != _contact(good[kept]) for at in others)
        found.patients[kept] = expected(_case(good[kept], number, file, dead))
    held_back = {at for number, own in by_patient.items() for at in own if number in file.had and at in found.patients}
    found.figures = _figures(found, len(data), disagreeing, {at for at in held_back if found.patients[at].contactable})
    return found


def _figures(found: Accounts, lines: int, disagreeing: int, held_back: set[int]) -> dict[str, Any]:
    reached = {at: one for at, one in found.patients.items() if one.contactable}
    missed = Counter(one.primary for one in found.patients.values() if not one.contactable)
    going = Counter(one.path for at, one in reached.items() if at not in held_back)
    can_fall_back = sum(
        one.path == "nhs_app" and not one.no_sms_fallback for at, one in reached.items() if at not in held_back
    )
    best = going["sms"] * Decimal("0.02") + going["email"] * Decimal("0.001") + going["nhs_app"] * Decimal("0.005")
    return {
        "lines": lines,
        "rejected": len(found.rejected),
        "rejected_by_reason": dict(Counter(found.rejected.values())),
        "duplicates": len(found.duplicates),
        "disagreeing_duplicates": disagreeing,
        "patient_list": len(found.patients),
        "non_contactable": {code: n for code, n in missed.items() if n},
        "recipients": {path: n for path, n in Counter(one.path for one in reached.values()).items() if n},
        "held_back": len(held_back),
        "no_sms_fallback": sum(one.no_sms_fallback for one in reached.values()),
        "without_valid_mobile": missed["not_provided"] + missed["not_uk"],
        "fragments": {"best": going["sms"], "worst": going["sms"] + can_fall_back},
        "cost": {"best": best, "worst": best + can_fall_back * Decimal("0.02"), "currency": "GBP"},
    }
