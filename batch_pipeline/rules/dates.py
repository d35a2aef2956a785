"""Dates of birth: day first or ISO, never guessed (SPEC 2.2).

`read` is the truth about what a cell says, `parse` adds the limits of a date of birth; `sql` and `problem_sql`
agree with them on every text. A midnight behind the date (how databases export a date) is cut off; any other time
is refused, because it might belong to another day in another time zone.
"""

import re
from datetime import date
from enum import StrEnum
from typing import Final

from batch_pipeline.rules import cells

FIRST_YEAR: Final = 1900


class DobProblem(StrEnum):
    """Why a cell isn't a date of birth."""

    UNREADABLE = "not a date"
    TWO_DIGIT_YEAR = "the year has two digits"
    NO_SUCH_DAY = "no such day"  # 31 February; or the month first, as in 12/31/1980
    FUTURE = "in the future"
    BEFORE_1900 = "before 1900"


# Month by month, the names that are understood; any case.
MONTHS: Final = (
    ("Jan", "January"),
    ("Feb", "February"),
    ("Mar", "March"),
    ("Apr", "April"),
    ("May",),
    ("Jun", "June"),
    ("Jul", "July"),
    ("Aug", "August"),
    ("Sep", "Sept", "September"),
    ("Oct", "October"),
    ("Nov", "November"),
    ("Dec", "December"),
)

_MIDNIGHT: Final = r"(?:[ T]0?0:00(?::00(?:\.0+)?)?)?"
_DAY: Final = "[0-9]{1,2}"
_YEAR: Final = "[1-9][0-9]{3}"
_MONTH_NAME: Final = "(?:" + "|".join(cells.any_case(name) for names in MONTHS for name in names) + ")"
_ISO: Final = f"{_YEAR}-[0-9]{{2}}-[0-9]{{2}}{_MIDNIGHT}"


def _day_first(year: str) -> str:
    """Pattern for a date that begins with its day; both separators are the same."""
    numeric = [f"{_DAY}{mark}{_DAY}{mark}{year}" for mark in ("/", "-", r"\.")]
    named = [f"{_DAY}{mark}{_MONTH_NAME}{mark}{year}" for mark in ("-", " ", "/")]
    return f"(?:{'|'.join(numeric + named)})"


_DAY_ALONE: Final = _day_first(_YEAR)
_DAY_FIRST: Final = _DAY_ALONE + _MIDNIGHT
_TWO_DIGIT_YEAR: Final = _day_first("[0-9]{2}") + _MIDNIGHT
_PARTS: Final = r"^([0-9]{1,2})[-/. ]([0-9A-Za-z]+)[-/. ]([0-9]{4})"
_NUMBERS: Final = {name.upper(): number for number, names in enumerate(MONTHS, 1) for name in names}


def read(text: str | None) -> date | DobProblem | None:
    """The date that the cell says; None when it says nothing, otherwise why it can't be read."""
    if text is None or cells.is_empty(text):
        return None
    tidied = _dashed(cells.tidy(text))
    if re.fullmatch(_ISO, tidied):
        year, month, day = tidied[:4], tidied[5:7], tidied[8:10]
    elif parts := re.fullmatch(_DAY_FIRST, tidied) and re.match(_PARTS, tidied):
        day, month, year = parts.groups()
    else:
        return DobProblem.TWO_DIGIT_YEAR if re.fullmatch(_TWO_DIGIT_YEAR, tidied) else DobProblem.UNREADABLE
    try:
        return date(int(year), _NUMBERS.get(month.upper()) or int(month), int(day))
    except ValueError:
        return DobProblem.NO_SUCH_DAY


def parse(text: str | None, today: date) -> date | DobProblem | None:
    """The date of birth that the cell says, as of ``today``; None when it says nothing, otherwise why it is invalid."""
    found = read(text)
    if not isinstance(found, date):
        return found
    if found.year < FIRST_YEAR:
        return DobProblem.BEFORE_1900
    return DobProblem.FUTURE if found > today else found


def sql(column: str) -> str:
    """`read` as a DuckDB expression over a VARCHAR column: DATE; null when the cell is empty or unreadable."""
    return f"""CASE
        WHEN {column} IS NULL THEN NULL
        WHEN {_matches(column, _ISO)} THEN try_cast(left({column}, 10) AS DATE)
        WHEN {_matches(column, _DAY_ALONE)} THEN {_day_first_sql(column)}
        WHEN {_matches(column, _DAY_FIRST)} THEN {_day_first_sql(_without_time_sql(column))}
        WHEN regexp_matches({column}, '[^!-~]') THEN {_tidied_date_sql(_tidied_sql(column))}
    END"""


def problem_sql(column: str, found: str, today: date) -> str:
    """Why the cell isn't a date of birth as of ``today``, as `parse` says; null for a valid one and for an empty one.

    ``found`` is what `sql` makes of the cell, repeated here: give it a column.
    """
    tidied = _tidied_sql(column)
    return f"""CASE
        WHEN {found} BETWEEN DATE '{FIRST_YEAR}-01-01' AND DATE '{today.isoformat()}' THEN NULL
        WHEN {cells.empty_sql(column)} THEN NULL
        WHEN {found} < DATE '{FIRST_YEAR}-01-01' THEN {cells.quoted(DobProblem.BEFORE_1900)}
        WHEN {found} IS NOT NULL THEN {cells.quoted(DobProblem.FUTURE)}
        WHEN {_matches(tidied, f"(?:{_ISO})|(?:{_DAY_FIRST})")} THEN {cells.quoted(DobProblem.NO_SUCH_DAY)}
        WHEN {_matches(tidied, _TWO_DIGIT_YEAR)} THEN {cells.quoted(DobProblem.TWO_DIGIT_YEAR)}
        ELSE {cells.quoted(DobProblem.UNREADABLE)}
    END"""


_ODD_DASHES: Final = f"[{cells.DASHES}]"


def _dashed(text: str) -> str:
    return re.sub(_ODD_DASHES, "-", text)


def _tidied_sql(column: str) -> str:
    return f"regexp_replace({cells.tidied_sql(column)}, {cells.quoted(_ODD_DASHES)}, '-', 'g')"


def _tidied_date_sql(tidied: str) -> str:
    return f"""CASE
        WHEN {_matches(tidied, _ISO)} THEN try_cast(left({tidied}, 10) AS DATE)
        WHEN {_matches(tidied, _DAY_FIRST)} THEN {_day_first_sql(_without_time_sql(tidied))}
    END"""


def _without_time_sql(text: str) -> str:
    return f"regexp_replace({text}, '[ T]0?0:00.*$', '')"


# Shapes of a date that matches _DAY_ALONE, as strptime reads them; the commonest first. What is left has a month in full.
_FORMATS: Final = (
    ("[0-9]+/[0-9]+/[0-9]+", "%d/%m/%Y"),
    ("[0-9]+-[A-Za-z]{3}-[0-9]+", "%d-%b-%Y"),
    ("[0-9]+-[0-9]+-[0-9]+", "%d-%m-%Y"),
    (r"[0-9]+\.[0-9]+\.[0-9]+", "%d.%m.%Y"),
)


def _day_first_sql(text: str) -> str:
    """A text that matches ``_DAY_ALONE`` as DATE; null when there is no such day."""
    cases = " ".join(f"WHEN {_matches(text, shape)} THEN try_strptime({text}, '{form}')" for shape, form in _FORMATS)
    short_month = f"regexp_replace({text}, '^([0-9]+).([A-Za-z]{{3}})[A-Za-z]*.', '\\1-\\2-')"
    return f"(CASE {cases} ELSE try_strptime({short_month}, '%d-%b-%Y') END)::DATE"


def _matches(text: str, pattern: str) -> str:
    return f"regexp_full_match({text}, {cells.quoted(pattern)})"
