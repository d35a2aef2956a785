"""The headings of a cohort file: which column holds what (SPEC 2.1).

The tables come first, as data: the fields, the headings seen in exports for each, the columns and
lines that are not about a patient. `name_columns` applies them to one line of headings.
"""

import itertools
import re
import unicodedata
from collections.abc import Sequence
from typing import Final, Literal, NamedTuple

from batch_pipeline.errors import Refused
from batch_pipeline.rules.cells import any_case

Twice = Literal["refuse", "next_phone", "first_non_empty"]
"""What a second, differently worded heading of the same field means.

``refuse``: an error, since taking either could hide the other (a death, another person's number).
``next_phone``: another telephone column, taken in the order of use.
``first_non_empty``: fills the field where the first column is empty, and is kept under its own name.
"""


class Field(NamedTuple):
    """One canonical field of a cohort."""

    name: str
    twice: Twice
    headings: tuple[str, ...]


CANONICAL: Final = (
    Field(
        "nhs_number",
        "refuse",
        (
            "NHS Number",
            "NHS No",
            "NHS Num",
            "NHS",
            "NHS ID",
            "NHS Identifier",
            "Patient NHS Number",
            "Patient's NHS Number",
            "Patient NHS No",
            "CHI Number",
            "CHI No",
            "CHI",
            "Health and Care Number",
            "H&C Number",
        ),
    ),
    Field(
        "patient_name",
        "first_non_empty",
        ("Patient Name", "Patient's Name", "Full Name", "Patient Full Name", "Name", "Patient"),
    ),
    Field(
        "first_name",
        "first_non_empty",
        (
            "First name",
            "First names",
            "Given Name",
            "Given Names",
            "Forename",
            "Forenames",
            "Patient First Name",
            "Patient Given Name",
            "Patient Forename",
        ),
    ),
    Field(
        "surname",
        "first_non_empty",
        ("Surname", "Family Name", "Last name", "Patient Surname", "Patient Last Name", "Patient Family Name"),
    ),
    Field(
        "date_of_birth",
        "refuse",
        (
            "Date of Birth",
            "DOB",
            "D.O.B.",
            "Birth date",
            "Patient DOB",
            "Patient Date of Birth",
            "Patient's Date of Birth",
        ),
    ),
    Field(
        "mobile",
        "next_phone",
        (
            "Mobile number",
            "Mobile telephone",
            "Mobile",
            "Mobile No",
            "Mobile Tel",
            "Mobile Tel No",
            "Mobile phone",
            "Mobile phone number",
            "Mobile telephone number",
            "Mobile contact number",
            "Patient Mobile",
            "Patient Mobile Number",
            "Patient Mobile Telephone",
            "Telephone Mobile",
            "Phone Mobile",
            "Contact Mobile",
            "Cell phone",
        ),
    ),
    Field(
        "preferred_telephone",
        "next_phone",
        (
            "Preferred telephone number",
            "Preferred telephone",
            "Preferred phone",
            "Preferred phone number",
            "Preferred number",
            "Preferred contact number",
            "Preferred tel",
            "Main telephone",
            "Main telephone number",
            "Main contact number",
        ),
    ),
    Field(
        "telephone",
        "next_phone",
        (
            "Telephone Number",
            "Telecom Number",
            "Telephone",
            "Telecom",
            "Telephone No",
            "Tel",
            "Tel No",
            "Tel Number",
            "Phone",
            "Phone No",
            "Phone number",
            "Contact number",
            "Contact telephone",
            "Contact telephone number",
            "Contact phone number",
            "Other telephone",
            "Other telephone number",
            "Home telephone",
            "Home telephone number",
            "Home phone",
            "Home phone number",
            "Home number",
            "Home tel",
            "Work telephone",
            "Work telephone number",
            "Work phone",
            "Work phone number",
            "Landline",
            "Landline number",
            "Patient telephone",
            "Patient telephone number",
            "Patient phone number",
        ),
    ),
    Field(
        "email",
        "refuse",
        (
            "Email",
            "Email address",
            "E-mail Address",
            "Patient Email",
            "Patient Email Address",
            "Home Email",
            "Home Email Address",
            "Personal Email",
            "Preferred Email",
            "Preferred Email Address",
            "Contact Email",
            "Contact Email Address",
        ),
    ),
    Field(
        "date_of_death",
        "refuse",
        ("Date of Death", "DOD", "Death date", "Deceased date", "Date deceased", "Patient Date of Death"),
    ),
    Field(
        "deceased",
        "refuse",
        ("Deceased", "Is deceased", "Deceased flag", "Deceased indicator", "Deceased Y/N", "Patient deceased", "Dead"),
    ),
    Field(
        "local_id",
        "first_non_empty",
        (
            "EMIS Number",
            "EMIS No",
            "EMIS ID",
            "EMIS Web Number",
            "SystmOne ID",
            "SystmOne Number",
            "Vision ID",
            "Vision Number",
            "Local ID",
            "Local Patient ID",
            "Local Patient Identifier",
            "Patient ID",
            "Patient Identifier",
            "Patient Number",
            "Patient No",
            "Patient Reference",
            "Hospital Number",
            "Hospital No",
            "PAS Number",
            "MRN",
        ),
    ),
)

LEFT_OUT_HEADINGS: Final = ("Patient count", "Patients count", "Count of patients")
"""Columns that count patients instead of telling about one; left out."""

COUNT_LINES: Final = (
    "patient count",
    "patients count",
    "count of patients",
    "number of patients",
    "total patients",
    "total patient count",
    "total number of patients",
    "patients total",
    "patient total",
    "total count",
    "record count",
    "total records",
    "number of records",
    "total",
)
"""How a line begins that counts the patients of the report instead of being one; left out."""

TAKEN_NAMES: Final = ("line", "problem")
"""Names that the reader needs for itself beside the canonical ones."""

PHONE_FIELDS: Final = ("mobile", "preferred_telephone", "telephone")
"""The telephone fields in their order of use (SPEC 2.1)."""

FIELDS: Final = tuple(field.name for field in CANONICAL)


def heading_key(heading: str) -> str:
    """What two headings have in common that differ in case, spaces, ``_``, ``-`` or punctuation only."""
    return "".join(char for char in unicodedata.normalize("NFKC", heading).casefold() if char.isalnum())


_BY_NAME: Final = {field.name: field for field in CANONICAL}
_FIELD_OF_KEY: Final = {
    heading_key(heading): field.name for field in CANONICAL for heading in (field.name, *field.headings)
}
_LEFT_OUT_KEYS: Final = frozenset(map(heading_key, LEFT_OUT_HEADINGS))

_PUNCTUATION: Final = r"\t -/:-@\[-`{-~"
COUNT_LINE_PATTERN: Final = (
    f"[{_PUNCTUATION}]*(?:"
    + "|".join(f"[{_PUNCTUATION}]*".join(map(any_case, label.split())) for label in COUNT_LINES)
    + f")[0-9{_PUNCTUATION}]*"
)
"""The whole first non-empty cell of a counting line; Arrow's RE2 and Python read it alike."""

COUNT_CELL_LENGTH: Final = 9
"""Most characters of a count beside such a label: fewer than an NHS number or a telephone number has."""

_COUNT_LABEL: Final = re.compile(COUNT_LINE_PATTERN)
_COUNT_CELL: Final = re.compile(r"[0-9,. ]+")


def field_of(heading: str) -> str | None:
    """The canonical field that a heading names, or None for any other heading."""
    return _FIELD_OF_KEY.get(heading_key(heading))


def recognised(headings: Sequence[str]) -> int:
    """How many of the cells of a line are headings that we know."""
    return sum(field_of(heading) is not None for heading in headings)


def is_count_line(cells: Sequence[str]) -> bool:
    """Whether a line counts patients: ``Patient count,1234``, ``Patient Count: 1234``, ``Total patients,12``."""
    filled = [cell for cell in cells if cell]
    return (
        bool(filled)
        and _COUNT_LABEL.fullmatch(filled[0]) is not None
        and all(len(cell) <= COUNT_CELL_LENGTH and _COUNT_CELL.fullmatch(cell) for cell in filled[1:])
    )


class Column(NamedTuple):
    """What becomes of one column of the file.

    ``name`` is the canonical or personalisation name, None for a column that is left out. ``fills`` is
    the canonical field that this column also fills where that field's own column is empty.
    ``unnamed``: the heading is empty, so the column counts only if it turns out to hold something.
    """

    position: int
    heading: str
    name: str | None
    fills: str | None = None
    unnamed: bool = False


def name_columns(headings: Sequence[str], *, where: str) -> tuple[Column, ...]:
    """Decide for each heading, in file order, which field its column is (SPEC 2.1).

    ``where`` is the file and line, for messages. Raises `Refused` for the same heading twice, and for
    two headings of a field for which the second can't be kept.
    """
    _refuse_repeats(headings, where)
    places = _places(headings, where)
    taken = {*FIELDS, *TAKEN_NAMES}
    columns: list[Column] = []
    for position, heading in enumerate(headings):
        key = heading_key(heading)
        field = _FIELD_OF_KEY.get(key)
        if key in _LEFT_OUT_KEYS:
            columns.append(Column(position, heading, None))
        elif position in places:
            columns.append(Column(position, heading, places[position]))
        else:
            name = _free_name(_snake_case(heading) if key else f"column_{position + 1}", taken)
            columns.append(Column(position, heading, name, fills=field, unnamed=not key))
    return tuple(columns)


def _refuse_repeats(headings: Sequence[str], where: str) -> None:
    seen: dict[str, int] = {}
    for position, heading in enumerate(headings):
        key = heading_key(heading)
        if key and key in seen:
            raise _clash(headings, seen[key], position, "the same heading", where)
        seen[key] = position


def _places(headings: Sequence[str], where: str) -> dict[int, str]:
    """Position of a column → the canonical field whose own column it is."""
    of_field: dict[str, list[int]] = {name: [] for name in FIELDS}
    for position, heading in enumerate(headings):
        field = field_of(heading)
        if field is not None:
            of_field[field].append(position)
    places: dict[int, str] = {}
    for name, positions in of_field.items():
        if len(positions) > 1 and _BY_NAME[name].twice == "refuse":
            raise _clash(headings, positions[0], positions[1], f"headings for {name}", where)
        if positions and name not in PHONE_FIELDS:
            places[positions[0]] = name
    phones = [(rank, position) for rank, name in enumerate(PHONE_FIELDS) for position in of_field[name]]
    if len(phones) > len(PHONE_FIELDS):
        crowded = next(positions for name in PHONE_FIELDS if len(positions := of_field[name]) > 1)
        reason = f"one telephone heading too many ({len(phones)}, and at most {len(PHONE_FIELDS)} can be used)"
        raise _clash(headings, crowded[0], crowded[1], reason, where)
    return places | _phone_places(phones)


def _phone_places(phones: Sequence[tuple[int, int]]) -> dict[int, str]:
    """Share the telephone fields out among (rank of its own field, position of the column), both rising.

    The order of use stays, and as many columns as can be keep their own field: a second mobile becomes
    the preferred telephone, and pushes that one to the other telephone.
    """
    slots = min(
        itertools.combinations(range(len(PHONE_FIELDS)), len(phones)),
        key=lambda chosen: sum(abs(slot - rank) for slot, (rank, _) in zip(chosen, phones, strict=True)),
    )
    return {position: PHONE_FIELDS[slot] for slot, (_, position) in zip(slots, phones, strict=True)}


def _clash(headings: Sequence[str], first: int, second: int, reason: str, where: str) -> Refused:
    named = [f'"{headings[position].strip()}" (column {_column_name(position)})' for position in (first, second)]
    return Refused(f"{where}: {named[0]} and {named[1]} are {reason}; remove or rename one of the two columns.")


def _column_name(position: int) -> str:
    """Number and spreadsheet letters of a column: ``28, AB``."""
    letters = ""
    rest = position + 1
    while rest:
        rest, digit = divmod(rest - 1, 26)
        letters = chr(ord("A") + digit) + letters
    return f"{position + 1}, {letters}"


def _snake_case(heading: str) -> str:
    """A name that a template can use: ``Usual GP's name`` → ``usual_gps_name``, ``2nd dose`` → ``field_2nd_dose``."""
    text = re.sub(r"['’]", "", unicodedata.normalize("NFKC", heading))
    text = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", text)
    # Some numerals of other scripts are word characters and yet may not stand in a name.
    words = "".join(sign if f"a{sign}".isidentifier() else " " for sign in text.casefold())
    name = "_".join(re.findall(r"[^\W_]+", words))
    return name if name.isidentifier() else f"field_{name}"


def _free_name(name: str, taken: set[str]) -> str:
    """``name``, or ``name_2`` and so on if that is taken; the result is taken from now on."""
    free = next(
        candidate
        for candidate in itertools.chain([name], (f"{name}_{n}" for n in itertools.count(2)))
        if candidate not in taken
    )
    taken.add(free)
    return free
