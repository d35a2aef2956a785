r"""Mending of any cell, before a rule reads it: what nobody can see, and words that stand for nothing (SPEC 2.1).

Every rule here exists twice, as a Python function (the truth) and as a DuckDB expression over a VARCHAR column
(``*_sql``) that agrees with it on every text. Both are built from the character classes below, which are written
so that Python's ``re`` and DuckDB's RE2 read them alike: RE2's ``\d``, ``\s`` and ``\D`` are ASCII only,
and ``(?i)`` folds odd letters in both, so neither is used.

Not for names: *Null*, *Nan* and *Na* are names that people have.
"""

import re
from typing import Final

# Bodies of character classes: literal characters and ranges, for use between square brackets in re and in RE2.
INVISIBLE: Final = (
    "\u00ad\u061c\u180e"  # soft hyphen, Arabic letter mark, Mongolian vowel separator
    "\u200b-\u200f\u202a-\u202e"  # zero-width characters; marks and embeddings of writing direction
    "\u2060-\u2064\u2066-\u206f\ufeff"  # word joiner, invisible operators, isolates, the byte order mark
)
SPACES: Final = (
    "\t-\r\x1c-\x1f \u0085\u00a0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"  # whatever Python calls a space
)
DASHES: Final = "\\-\u2010-\u2015\u2212\ufe58\ufe63\uff0d"
BRACKETS: Final = r"()\[\]{}"

# Whole cells that mean "nothing here", in capitals. Databases, pandas, Excel and people write them.
EMPTY_WORDS: Final = (
    *("-", "--", "---", "\u2010", "\u2011", "\u2012", "\u2013", "\u2014", "\u2015", "\u2212", "."),
    *("N/A", "N.A.", "NA", "NAN", "NAT", "NIL", "NONE", "NULL"),
    *("<NA>", "#N/A", "(NULL)", "\\N"),
)


EMPTY_NAMES: Final = ("NULL", "null", "nan", "NaN", "None", "none", "NaT")
"""Words that no program writes for a name and no person so for themselves: the case counts."""


def any_case(word: str) -> str:
    """A pattern for an ASCII word in any case, without ``(?i)``."""
    return "".join(f"[{letter.upper()}{letter.lower()}]" if letter.isalpha() else re.escape(letter) for letter in word)


# A cell that says nothing. `re` and RE2 both read it, so Python and SQL can't differ.
_BLANK: Final = f"[{INVISIBLE}{SPACES}]*"
_EMPTY: Final = f"{_BLANK}(?:{'|'.join(map(any_case, EMPTY_WORDS))})?{_BLANK}"

_BLANK_CELL = re.compile(_BLANK)
_EMPTY_CELL = re.compile(_EMPTY)
_INVISIBLE = re.compile(f"[{INVISIBLE}]+")
_SPACES = re.compile(f"[{SPACES}]+")


def tidy(text: str) -> str:
    """``text`` without invisible characters, each run of spaces (of any kind) as one space, none at the ends."""
    return _SPACES.sub(" ", _INVISIBLE.sub("", text)).strip(" ")


def is_empty(text: str | None) -> bool:
    """Whether the cell says nothing: null, blank, or one of ``EMPTY_WORDS`` in any case."""
    return text is None or _EMPTY_CELL.fullmatch(text) is not None


def is_blank(text: str | None) -> bool:
    """Whether there is nothing to be seen in the cell."""
    return text is None or _BLANK_CELL.fullmatch(text) is not None


def quoted(text: str) -> str:
    """``text`` as a SQL string literal."""
    return "'" + text.replace("'", "''") + "'"


def tidied_sql(column: str) -> str:
    """`tidy` as SQL; null for null. Cells of plain printable ASCII without spaces aren't touched, and cost little."""
    invisible, spaces = quoted(f"[{INVISIBLE}]+"), quoted(f"[{SPACES}]+")
    mended = f"trim(regexp_replace(regexp_replace({column}, {invisible}, '', 'g'), {spaces}, ' ', 'g'), ' ')"
    return f"CASE WHEN regexp_matches({column}, '[^!-~]') THEN {mended} ELSE {column} END"


def empty_name_sql(column: str) -> str:
    """Whether a cell that holds a name says nothing: as `empty_sql`, but *Null*, *Nan* and *NA* are names.

    Only the spellings of programs (``NULL``, ``null``, ``nan``, ``NaN``, ``None``) and words that aren't all letters count.
    """
    words = [word for word in EMPTY_WORDS if not word.isalpha()]
    pattern = "|".join([*map(any_case, words), *EMPTY_NAMES])
    return f"({column} IS NULL OR regexp_full_match({column}, {quoted(f'{_BLANK}(?:{pattern})?{_BLANK}')}))"


def name_sql(column: str) -> str:
    """A cell that holds a name, tidied; NULL where it says nothing (`empty_name_sql`).

    A plain name comes first and costs one pattern: printable ASCII and Latin letters with their accents (U+00C0 to U+024F),
    single spaces, and not beginning like a word that a program writes for nothing: those with a letter there begin with
    an N, and go on with A, I, O, U or a sign.
    """
    accented = "\u00c0-\u024f"
    first = f"(?:[A-MO-Za-mo-z{accented}]|[Nn][B-HJ-NP-TV-Zb-hj-np-tv-z])"
    plain = quoted(f"{first}[!-~{accented}]*(?: [!-~{accented}]+)*")
    return f"""CASE WHEN regexp_full_match({column}, {plain}) THEN {column}
        WHEN NOT {empty_name_sql(column)} THEN {tidied_sql(column)} END"""


def empty_sql(column: str) -> str:
    """`is_empty` as SQL: TRUE or FALSE, never null."""
    return f"({column} IS NULL OR regexp_full_match({column}, {quoted(_EMPTY)}))"


def blank_sql(column: str) -> str:
    """`is_blank` as SQL: TRUE or FALSE, never null."""
    return f"({column} IS NULL OR regexp_full_match({column}, {quoted(_BLANK)}))"
