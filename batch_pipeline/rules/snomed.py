"""SNOMED CT identifiers: which numbers are codes of concepts, as a record's ``reasonCode`` takes them (SPEC 2.13).

SNOMED CT Release File Specifications, 6.2: 6 to 18 digits, no zero first; the last is Verhoeff's check digit, the two
before it say of what the identifier is (``00`` and ``10``: a concept).
"""

import re

_IDENTIFIER = re.compile(r"[1-9][0-9]{5,17}", re.ASCII)
_CONCEPTS = {"00", "10"}
_KINDS = {"01": "a description", "11": "a description", "02": "a relationship", "12": "a relationship"}
# Verhoeff's tables: multiplication in the dihedral group of ten, and the permutation of each place, from the right.
_TIMES = (
    "0123456789",
    "1234067895",
    "2340178956",
    "3401289567",
    "4012395678",
    "5987604321",
    "6598710432",
    "7659821043",
    "8765932104",
    "9876543210",
)
_PLACES = (
    "0123456789",
    "1576283094",
    "5803796142",
    "8916043527",
    "9453126870",
    "4286573901",
    "2793806415",
    "7046913258",
)


def fault(code: str) -> str | None:
    """Why a text isn't the code of a SNOMED CT concept, in words with the mend; None for one that is."""
    if not _IDENTIFIER.fullmatch(code):
        return "a SNOMED CT code has 6 to 18 digits and doesn't begin with 0"
    if _checked(code):
        return "its check digit is wrong: copy the SNOMED CT code again, in quotation marks"
    kind = code[-3:-1]
    if kind not in _CONCEPTS:
        return f"this is the id of {_KINDS.get(kind, 'something else')}; give that of the SNOMED CT concept"
    return None


def _checked(code: str) -> int:
    """0 where the check digit is right."""
    check = 0
    for place, digit in enumerate(reversed(code)):
        check = int(_TIMES[check][int(_PLACES[place % 8][int(digit)])])
    return check
