"""Why a line of the cohort file is rejected: the codes, what a person is shown, and the mend (SPEC 2.0, 2.1, 2.2).

One table for both makers of rejected rows: the reader (a line that can't be read) and the validator
(a line that was read and holds something invalid). Reports print ``label`` and ``remedy``.
"""

from typing import Final, NamedTuple


class Rejection(NamedTuple):
    """One reason for rejecting a line; neither text ever holds anything of the line itself."""

    code: str
    label: str
    remedy: str


_UNREADABLE: Final = (
    Rejection(
        "wrong_number_of_cells",
        "The line has more or fewer cells than there are headings",
        "Check the line for a stray or missing delimiter, or a line that was cut off, and export it again.",
    ),
    Rejection(
        "unclosed_quote",
        "A quotation mark is opened and not closed",
        "Close the quotation mark, or double it where it is part of the text, and send the line again.",
    ),
    Rejection(
        "text_after_quote",
        "There is text after a closing quotation mark",
        "Double the quotation marks that are part of the text, and send the line again.",
    ),
    Rejection(
        "line_too_long",
        "The line is too long to be one patient",
        "Check that the line ends are still there: several lines may have run into one.",
    ),
    Rejection(
        "unreadable_characters",
        "The line holds characters that can't be read",
        "Export the file again as CSV UTF-8: this line was damaged, or saved in another encoding than the rest.",
    ),
)

_INVALID: Final = (
    Rejection("nhs_number_missing", "The NHS number is missing", "Fill in the NHS number."),
    Rejection(
        "nhs_number_invalid",
        "The NHS number is not valid",
        "Check the NHS number: ten digits, the last of which is a check digit; keep the column as text.",
    ),
    Rejection(
        "date_of_birth_missing",
        "The date of birth is missing, and the message's link asks for it",
        "Fill in the date of birth.",
    ),
    Rejection(
        "date_of_birth_invalid",
        "The date of birth is not valid",
        "Write the date of birth day first (31/01/1980, 31-Jan-1980) or as 1980-01-31.",
    ),
)

UNREADABLE: Final = frozenset(row.code for row in _UNREADABLE)
"""The codes that the reader gives: the line's cells are unknown."""

REJECTIONS: Final = {row.code: row for row in (*_UNREADABLE, *_INVALID)}
"""Every code → its row, in the order in which reports list them."""
