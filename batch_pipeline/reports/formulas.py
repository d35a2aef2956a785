"""Cells that a spreadsheet would run as a formula, made harmless (SPEC 2.11).

A text cell that begins like a formula gets an apostrophe before it. There is no exception: not for ``+447700900123``
and not for ``-5`` either. A text is never a number here (numbers have number columns, which aren't touched), and a
rule with exceptions is one that somebody finds a way around. A program that reads a report takes one leading
apostrophe off.
"""

import re
from collections.abc import Callable, Iterable

_STARTERS = (
    "=",
    "+",
    "-",
    "@",
    "\uff1d",
    "\uff0b",
    "\uff0d",
    "\uff20",
    "\ufe66",
    "\ufe62",
    "\ufe63",
    "\ufe6b",
    "\u2212",
)
"""What begins a formula: ASCII, full-width, small forms, and the minus sign."""
_BREAKS = ("\t", "\n", "\r")
"""Some spreadsheets drop these at the start of a cell and run what follows."""
_SKIPPED = (
    *(("\x00", " "), ("\x7f", "\xa0"), ("\xad", "\xad"), ("\u1680", "\u1680"), ("\u180e", "\u180e")),
    *(("\u2000", "\u200f"), ("\u2028", "\u202f"), ("\u205f", "\u206f"), ("\u3000", "\u3000"), ("\ufeff", "\ufeff")),
)
"""Ranges of white space, control and invisible characters, behind which a formula may hide."""


def _pattern(written: Callable[[str], str]) -> str:
    """The rule as a regular expression, each character written by ``written``."""

    def one_of(ranges: Iterable[tuple[str, str]]) -> str:
        return "[" + "".join(f"{written(low)}-{written(high)}" for low, high in ranges) + "]"

    beginnings = one_of((character, character) for character in (*_STARTERS, *_BREAKS))
    return f"^{one_of(_SKIPPED)}*{beginnings}"


_BEGINS = re.compile(_pattern(lambda character: f"\\u{ord(character):04x}"))
_BEGINS_SQL = _pattern(lambda character: f"\\x{{{ord(character):04X}}}")


def safe(text: str) -> str:
    """The text, with an apostrophe before it where a spreadsheet would run it."""
    return f"'{text}" if _BEGINS.match(text) else text


def safe_sql(column: str) -> str:
    """DuckDB expression: ``safe`` of a VARCHAR column; NULL stays NULL."""
    return f"CASE WHEN regexp_matches({column}, '{_BEGINS_SQL}') THEN '''' || {column} ELSE {column} END"
