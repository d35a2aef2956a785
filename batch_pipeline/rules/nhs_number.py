"""NHS numbers: mending and validity (SPEC 2.1, 2.2; PROVIDERS 6).

Ten digits, the last of them a check digit by modulus 11, and not one digit ten times. Three forms of one rule:
Python for one number, DuckDB expressions for a column of cells, numpy for a column of numbers that a schema checks.
Numbers are text throughout: a number that became a float has lost its proof.
"""

import re
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa  # pyright: ignore[reportMissingTypeStubs]
import pyarrow.compute as pc  # pyright: ignore[reportMissingTypeStubs]

from batch_pipeline.rules import cells

WEIGHTS: Final = (10, 9, 8, 7, 6, 5, 4, 3, 2)  # of the first nine digits

SCIENTIFIC: Final = "scientific notation: digits were lost"
NOT_DIGITS: Final = "other text beside the number"
REPEATED: Final = "the same digit ten times"
CHECK_DIGIT: Final = "check digit is wrong"

_SEPARATORS: Final = f"{cells.INVISIBLE}{cells.SPACES}{cells.DASHES}{cells.BRACKETS}"
_SCIENTIFIC: Final = r"[0-9]+(?:[.,][0-9]+)?[eE][+]?[0-9]+"
_FLOAT: Final = r"[0-9]+\.0+"  # a whole number that pandas wrote as a float: nothing is lost

_arrow: Any = pa  # it has no types
_compute: Any = pc
_SEPARATOR_RUN = re.compile(f"[{_SEPARATORS}]+")


def normalise(text: str | None) -> str | None:
    """The cell without separators, letters O as zeros, a float's ``.0`` cut off; None when it says nothing.

    What can't be mended (words, scientific notation) comes back as it was, without its separators: `problem` says why.
    """
    if text is None or cells.is_empty(text):
        return None
    bare = _SEPARATOR_RUN.sub("", text)
    if re.fullmatch(_FLOAT, bare):
        return bare.partition(".")[0]
    return bare.replace("O", "0").replace("o", "0") if re.fullmatch(r"[0-9Oo]*", bare) else bare


def check_digit(first_nine: str) -> int | None:
    """The check digit of nine digits; None when there is none (the remainder check gives 10)."""
    total = sum(weight * int(digit) for weight, digit in zip(WEIGHTS, first_nine, strict=True))
    check = (11 - total % 11) % 11
    return None if check == 10 else check


def problem(number: str) -> str | None:
    """Why a normalised number isn't an NHS number, without the number; None when it is one."""
    if re.fullmatch(_SCIENTIFIC, number):
        return SCIENTIFIC
    if not re.fullmatch(r"[0-9]+", number):
        return NOT_DIGITS
    if len(number) != 10:
        return "1 digit" if len(number) == 1 else f"{len(number)} digits"
    if len(set(number)) == 1:
        return REPEATED
    return None if check_digit(number[:9]) == int(number[9]) else CHECK_DIGIT


def is_valid(number: str | None) -> bool:
    """Whether a normalised number is an NHS number."""
    return number is not None and problem(number) is None


def normalised_sql(column: str) -> str:
    """`normalise` as a DuckDB expression over a VARCHAR column; null when the cell says nothing."""
    bare = f"regexp_replace({column}, {cells.quoted(f'[{_SEPARATORS}]+')}, '', 'g')"
    # The first two are nearly all: as it is, and as it is printed.
    return f"""CASE
        WHEN regexp_full_match({column}, '[0-9]{{10}}') THEN {column}
        WHEN regexp_full_match({column}, '[0-9]{{3}}[ -][0-9]{{3}}[ -][0-9]{{4}}')
            THEN concat(left({column}, 3), substr({column}, 5, 3), right({column}, 4))
        WHEN {cells.empty_sql(column)} THEN NULL
        WHEN regexp_full_match({bare}, {cells.quoted(_FLOAT)}) THEN split_part({bare}, '.', 1)
        WHEN regexp_full_match({bare}, '[0-9Oo]*') THEN replace(replace({bare}, 'O', '0'), 'o', '0')
        ELSE {bare}
    END"""


def problem_sql(number: str) -> str:
    """`problem` as a DuckDB expression over a column of normalised numbers; null for a valid one and for null.

    Meant for the few rows that are refused: `are_valid` is the quick way to find them.
    """
    digits = [f"(ascii({number}[{place}]) - 48)" for place in range(1, 11)]
    total = " + ".join(f"{weight} * {digit}" for weight, digit in zip(WEIGHTS, digits, strict=False))
    return f"""CASE
        WHEN {number} IS NULL THEN NULL
        WHEN regexp_full_match({number}, {cells.quoted(_SCIENTIFIC)}) THEN {cells.quoted(SCIENTIFIC)}
        WHEN NOT regexp_full_match({number}, '[0-9]+') THEN {cells.quoted(NOT_DIGITS)}
        WHEN strlen({number}) = 1 THEN '1 digit'
        WHEN strlen({number}) <> 10 THEN strlen({number}) || ' digits'
        WHEN {number} = repeat({number}[1], 10) THEN {cells.quoted(REPEATED)}
        WHEN (11 - ({total}) % 11) % 11 <> {digits[9]} THEN {cells.quoted(CHECK_DIGIT)}
    END"""


def are_valid(numbers: "pd.Series[str]") -> npt.NDArray[np.bool_]:
    """`is_valid` for a column of normalised numbers, null among them; about 10 million a second."""
    column = _arrow.array(numbers, type=_arrow.large_string(), from_pandas=True)
    if isinstance(column, _arrow.ChunkedArray):  # as pandas hands over what it read in pieces
        column = column.combine_chunks()
    ten_bytes = _compute.equal(_compute.binary_length(column), 10).fill_null(fill_value=False)
    valid = np.zeros(len(numbers), dtype=np.bool_)
    valid[ten_bytes.to_numpy(zero_copy_only=False)] = _digits_are_valid(_characters(column.filter(ten_bytes)))
    return valid


def _characters(column: Any) -> npt.NDArray[np.uint8]:
    """The bytes of an Arrow column of ten-byte texts, a row each: the column's own buffer is such a table."""
    if len(column) == 0:
        return np.empty((0, 10), dtype=np.uint8)
    _, offsets, data = column.buffers()
    start = np.frombuffer(offsets, dtype=np.int64)[column.offset]
    return np.frombuffer(data, dtype=np.uint8, count=10 * len(column), offset=int(start)).reshape(-1, 10)


def _digits_are_valid(characters: npt.NDArray[np.uint8]) -> npt.NDArray[np.bool_]:
    # A row a place: numpy works along long rows. Unsigned: what sorts below "0" becomes large.
    digits = np.ascontiguousarray(characters.T) - np.uint8(ord("0"))
    total = np.zeros(len(characters), dtype=np.uint16)
    for weight, place in zip(WEIGHTS, digits, strict=False):
        total += place * np.uint16(weight)
    check = (11 - total % 11) % 11
    largest = digits.max(axis=0)
    return (largest <= 9) & (check == digits[9]) & (digits.min(axis=0) != largest)
