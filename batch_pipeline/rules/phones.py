"""Phone numbers: what a cell holds, and whether a text message can go there (SPEC 2.1, 2.3).

The truth is `classify`: mend the cell, refuse what would be a guess, ask libphonenumber. One rule of ours stands
beside it: 07700 900000-900999, the fictional range, is a usable mobile.

Two forms of it are for set work. `plain_mobile_sql` finds nearly all the mobiles of a real column. `fast_sql` says what
`classify` does of the (distinct) cells that are left: it is built when this module is imported from the metadata that
libphonenumber itself uses, takes only the shapes where the answer is certain, and leaves the others null, for `classify`.
"""

import re
import unicodedata
from typing import Final, Literal, NamedTuple

from phonenumbers import (
    COUNTRY_CODE_TO_REGION_CODE,
    NumberParseException,
    PhoneMetadata,
    PhoneNumber,
    PhoneNumberDesc,
    PhoneNumberType,
    national_significant_number,
    number_type,
    parse,
)

from batch_pipeline.rules import _digit_patterns as patterns
from batch_pipeline.rules import cells

Kind = Literal["none", "mobile", "landline", "not_mobile", "not_uk"]


class Phone(NamedTuple):
    """What a phone cell holds.

    ``e164`` (``+447700900123``) is there for a mobile alone. ``mended``: the number that counts isn't how the cell
    had it (anything but ``0…`` or ``+44…`` in plain digits), or a word for "nothing" was taken as empty; a cell that is
    refused wasn't mended. ``detail`` says why a cell is ``not_uk``, and never holds the number.
    """

    kind: Kind
    e164: str | None
    mended: bool
    detail: str | None


SCIENTIFIC: Final = "scientific notation: digits were lost"
TWO_NUMBERS: Final = "two numbers in one cell"
OTHER_TEXT: Final = "other text beside the number"
NOT_A_NUMBER: Final = "not a phone number"
TOO_SHORT: Final = "too few digits"
TOO_LONG: Final = "too many digits"
NO_SUCH_NUMBER: Final = "no such UK number"
FOREIGN: Final = "a number of another country"

UK_COUNTRY_CODE: Final = 44  # Great Britain and Northern Ireland, Guernsey, Jersey, the Isle of Man
_FICTIONAL_MOBILES: Final = r"7700900\d{3}"

# libphonenumber's types, as kinds. FIXED_LINE_OR_MOBILE isn't "of type MOBILE" (SPEC 2.3): no text is sent on a maybe.
# No +44 number is of that type today. All that isn't named here is not_mobile.
_KINDS: Final[dict[int, Kind]] = {
    PhoneNumberType.MOBILE: "mobile",
    PhoneNumberType.FIXED_LINE: "landline",
    PhoneNumberType.FIXED_LINE_OR_MOBILE: "landline",
    PhoneNumberType.UNKNOWN: "not_uk",
}
_PARSE_FAILURES: Final = {
    NumberParseException.INVALID_COUNTRY_CODE: FOREIGN,
    NumberParseException.NOT_A_NUMBER: NOT_A_NUMBER,
    NumberParseException.TOO_SHORT_AFTER_IDD: TOO_SHORT,
    NumberParseException.TOO_SHORT_NSN: TOO_SHORT,
    NumberParseException.TOO_LONG: TOO_LONG,
}

_PLAIN: Final = r"(?:0|\+44)[1-9][0-9]{6,9}"
_AS_GIVEN: Final = re.compile(_PLAIN)
_SCIENTIFIC: Final = re.compile(r"[+-]?[0-9]+(?:[.,][0-9]+)?[eE][+-]?[0-9]+")
_FLOAT: Final = r"([1-9][0-9]{8,14})\.0+"  # a whole number that pandas wrote as a float: nothing is lost
_DIGITS_OF_TWO: Final = 18
_SAME: Final = str.maketrans(dict.fromkeys("\u2010\u2011\ufe58\ufe63\uff0d", "-") | {"{": "(", "}": ")"})
_LETTER_O: Final = str.maketrans("Oo", "00")


def classify(text: str | None) -> Phone:
    """What the cell holds; the truth that `fast_sql` agrees with. About 18,000 cells a second."""
    if text is None or cells.is_empty(text):
        return Phone("none", None, mended=not cells.is_blank(text), detail=None)
    mended = "".join(map(_ascii_digit, cells.tidy(text))).translate(_SAME)
    refused = _never_guessed(mended)
    if refused:
        return _refusal(refused)
    whole = re.fullmatch(_FLOAT, mended)
    try:
        number = parse(whole[1] if whole else mended.translate(_LETTER_O), "GB")
    except NumberParseException as failure:
        return _refusal(TWO_NUMBERS if _holds_two(mended) else _PARSE_FAILURES.get(failure.error_type, NOT_A_NUMBER))
    kind = _kind(number)
    if kind == "not_uk":
        return _refusal(TWO_NUMBERS if _holds_two(mended) else _why_not_uk(number))
    if number.extension:
        return _refusal(TWO_NUMBERS if _holds_two(mended) else OTHER_TEXT)
    e164 = f"+44{national_significant_number(number)}" if kind == "mobile" else None
    return Phone(kind, e164, mended=_AS_GIVEN.fullmatch(text) is None, detail=None)


def _refusal(detail: str) -> Phone:
    return Phone("not_uk", None, mended=False, detail=detail)


def _ascii_digit(character: str) -> str:
    """Digits of any script as ASCII ones, as libphonenumber reads them; other characters as they are."""
    return character if character.isascii() else str(unicodedata.decimal(character, character))


def _never_guessed(text: str) -> str | None:
    """Why the cell isn't read at all (SPEC 2.1, "never guessed"), or None when it may be."""
    if _SCIENTIFIC.fullmatch(text):
        return SCIENTIFIC
    if not any(character.isalpha() and character not in "Oo" for character in text):
        return None
    if not any(character.isdigit() for character in text):
        return NOT_A_NUMBER
    return TWO_NUMBERS if _holds_two(text) else OTHER_TEXT


def _holds_two(text: str) -> bool:
    """Whether a cell that can't be used is called two numbers: it has as many digits as two short ones."""
    return sum(map(str.isdigit, text)) >= _DIGITS_OF_TWO


def _kind(number: PhoneNumber) -> Kind:
    if number.country_code != UK_COUNTRY_CODE:
        return "not_uk"
    if re.fullmatch(_FICTIONAL_MOBILES, national_significant_number(number)):
        return "mobile"
    return _KINDS.get(number_type(number), "not_mobile")


def _why_not_uk(number: PhoneNumber) -> str:
    if number.country_code != UK_COUNTRY_CODE:
        return FOREIGN
    digits = len(national_significant_number(number))
    if digits == 10:
        return NO_SUCH_NUMBER
    return TOO_SHORT if digits < 10 else TOO_LONG


# ---- the fast path -------------------------------------------------------------------------------------------------

_TYPES: Final[dict[str, Kind]] = {
    "mobile": "mobile",
    "fixed_line": "landline",
    "toll_free": "not_mobile",
    "premium_rate": "not_mobile",
    "shared_cost": "not_mobile",
    "personal_number": "not_mobile",
    "voip": "not_mobile",
    "pager": "not_mobile",
    "uan": "not_mobile",
    "voicemail": "not_mobile",
}


class _Known(NamedTuple):
    """A sequence of national numbers that some region's metadata knows."""

    kind: Kind
    number: patterns.Places
    applies: bool  # libphonenumber asks this region about every number of the sequence, and no region before it


def _known() -> list[_Known]:
    """Every sequence of every +44 region, in the order in which libphonenumber asks the regions."""
    known = [_Known("mobile", number, applies=True) for number in patterns.sequences(_FICTIONAL_MOBILES)]
    claimed: list[patterns.Places] = []  # leading digits of the regions before: theirs, whatever they make of them
    for region in COUNTRY_CODE_TO_REGION_CODE[UK_COUNTRY_CODE]:
        metadata = PhoneMetadata.metadata_for_region(region)
        if metadata is None:  # pragma: no cover
            continue
        own = patterns.sequences(metadata.leading_digits) if metadata.leading_digits else []
        for name, kind in _TYPES.items():
            described: PhoneNumberDesc | None = getattr(metadata, name)
            for number in patterns.sequences(described.national_number_pattern or "") if described else []:
                asked = not own or any(patterns.always_begins(number, prefix) for prefix in own)
                taken = any(patterns.begins_like(number, prefix) for prefix in claimed)
                known.append(_Known(kind, number, applies=asked and not taken))
        claimed += own
    return [one for one in known if one.number]


def _certain(kind: Kind, known: list[_Known]) -> list[patterns.Places]:
    """The ten-digit sequences that are of this kind in every region that could be asked."""
    others = [one.number for one in known if one.kind != kind]
    return [
        one.number
        for one in known
        if one.kind == kind and one.applies and len(one.number) == 10
        if not any(patterns.overlap(one.number, other) for other in others)
    ]


# How a national number may be introduced. libphonenumber also takes off 180020 (text relay), and 44 without a plus when
# what is left makes more sense: numbers that begin so and aren't of a certain kind are left to it.
_INTRODUCTIONS: Final = ("0", "+44", "+440", "0044", "00440", "44", "440", "")
_INTRODUCED: Final = f"(?:{'|'.join(map(re.escape, _INTRODUCTIONS))})"
_CLEARLY_INTRODUCED: Final = r"(?:0|(?:\+|00)440?)"


_PLAIN_SEPARATORS: Final = " -()"
_BETWEEN: Final = f"[{re.escape(_PLAIN_SEPARATORS)}]*"


def _expressions() -> dict[str, str]:
    """RE2 patterns from the metadata, for cells without separators; ``separated_mobile`` allows the plain ones."""
    known = _known()
    certain = {kind: patterns.expression(_certain(kind, known)) for kind in ("mobile", "landline", "not_mobile")}
    abroad = "|".join(str(code) for code in sorted(COUNTRY_CODE_TO_REGION_CODE) if code != UK_COUNTRY_CODE)
    separated = patterns.expression(_certain("mobile", known), _BETWEEN)
    introduced = "|".join("".join(re.escape(sign) + _BETWEEN for sign in signs) for signs in _INTRODUCTIONS)
    return {
        **certain,
        "separated_mobile": f"{_BETWEEN}(?:{introduced}){separated}{_BETWEEN}",
        "known": patterns.expression(one.number for one in known),
        "abroad": rf"(?:\+|00)(?:{abroad})[0-9]{{5,11}}",
    }


_EXPRESSIONS: Final = _expressions()
_PLAIN_MOBILE: Final = r"(?:0|\+44)" + _EXPRESSIONS["mobile"]
_PERHAPS_FLOAT: Final = rf"\.[{cells.INVISIBLE}{cells.SPACES}]*0[0{cells.INVISIBLE}{cells.SPACES}]*$"
_ASCII: Final = r"[\t-\r -~]*"
_ASCII_SPACES: Final = r"[\t-\r ]*"
_TWO: Final = f"(?:[0-9][^0-9]*){{{_DIGITS_OF_TWO}}}"
_SEPARATORS: Final = f"{cells.INVISIBLE}{cells.SPACES}{cells.DASHES}()\\[\\]."


def plain_mobile_sql(column: str) -> str:
    """E.164 as a DuckDB expression, of the cells that are mobiles by a look at digits and plain separators; else NULL.

    A narrower `fast_sql`, for a whole column: what it leaves may be a mobile all the same.
    """
    bare = column
    for separator in _PLAIN_SEPARATORS:
        bare = f"replace({bare}, '{separator}', '')"
    # One pattern for all: it costs as much as one for the plainest alone, and most cells of other columns are none.
    return f"""CASE WHEN {_matches(column, _EXPRESSIONS["separated_mobile"])}
        THEN '+44' || right(CASE WHEN {mended_mobile_sql(column)} THEN {bare} ELSE {column} END, 10) END"""


def mended_mobile_sql(column: str) -> str:
    """Whether the cell, which is a mobile by `plain_mobile_sql`, isn't plainly ``0…`` or ``+44…``: by length and first sign."""
    return f"NOT (strlen({column}) = 11 AND starts_with({column}, '0') OR strlen({column}) = 13 AND starts_with({column}, '+'))"


def fast_sql(texts: str) -> str:
    """`classify` as a DuckDB query over a relation ``texts`` with the column ``raw``: ``raw, answer``.

    ``answer``: STRUCT(kind, e164, mended, detail), or NULL where only `classify` can tell (an empty cell is of kind
    ``none``). What it leaves on real cohorts: other scripts' digits, odd signs, and numbers of unusual length.
    """
    return f"""
        SELECT raw, CASE
            WHEN raw IS NULL THEN {_struct("none")}
            WHEN {_matches("raw", _PLAIN_MOBILE)} THEN {_struct("mobile", "'+44' || right(raw, 10)")}
            WHEN {cells.empty_sql("raw")} THEN {_struct("none", mended=f"NOT {cells.blank_sql('raw')}")}
            WHEN {_matches("raw", "[0-9+]*")} THEN {_digits_sql("raw", f"NOT {_matches('raw', _PLAIN)}")}
            WHEN {_matches("raw", _FLOAT)} THEN {_digits_sql("split_part(raw, '.', 1)", "TRUE")}
            WHEN regexp_matches(raw, {cells.quoted(_PERHAPS_FLOAT)}) THEN NULL
            WHEN bare IS NOT NULL THEN coalesce({_digits_sql("bare", "TRUE")}, {_two_sql("raw")})
            ELSE {_words_sql("raw")}
        END AS answer
        FROM (
            SELECT raw, CASE WHEN {_matches("raw", f"[0-9+Oo{_SEPARATORS}]*")} THEN {_compacted_sql("raw")} END AS bare
            FROM {texts}
        )"""


def _words_sql(column: str) -> str:
    """What a cell of ASCII with more than digits, the letter O and separators holds; null unless that is certain."""
    scientific = f"{_ASCII_SPACES}{_SCIENTIFIC.pattern}{_ASCII_SPACES}"
    return f"""CASE
        WHEN NOT {_matches(column, _ASCII)} THEN NULL
        WHEN {_matches(column, scientific)} THEN {_struct("not_uk", detail=SCIENTIFIC)}
        WHEN NOT regexp_matches({column}, '[A-NP-Za-np-z]') THEN {_two_sql(column)}
        WHEN NOT regexp_matches({column}, '[0-9]') THEN {_struct("not_uk", detail=NOT_A_NUMBER)}
        WHEN regexp_matches({column}, '{_TWO}') THEN {_struct("not_uk", detail=TWO_NUMBERS)}
        ELSE {_struct("not_uk", detail=OTHER_TEXT)}
    END"""


def _two_sql(column: str) -> str:
    """Two numbers in a cell without words; null for one that is shorter, or might be one number behind a text relay's."""
    relay = "1[^0-9]*8[^0-9]*[0Oo][^0-9]*[0Oo][^0-9]*2[^0-9]*[0Oo]"
    surely = f"regexp_matches({column}, '{_TWO}') AND NOT regexp_matches({column}, '{relay}')"
    return f"CASE WHEN {surely} AND {_matches(column, _ASCII)} THEN {_struct('not_uk', detail=TWO_NUMBERS)} END"


def _compacted_sql(column: str) -> str:
    """The cell without its separators, letters O as zeros."""
    without = f"regexp_replace({column}, {cells.quoted(f'[{_SEPARATORS}]+')}, '', 'g')"
    return f"replace(replace({without}, 'O', '0'), 'o', '0')"


def _digits_sql(digits: str, mended: str) -> str:
    """What a cell of digits and perhaps a plus holds; null unless that is certain."""
    mobile, landline, not_mobile = (_INTRODUCED + _EXPRESSIONS[kind] for kind in ("mobile", "landline", "not_mobile"))
    national = rf"(?:{_CLEARLY_INTRODUCED}[1-9]|[1-35-9])"  # and the first digit of the number itself
    return f"""CASE
        WHEN {_matches(digits, mobile)} THEN {_struct("mobile", f"'+44' || right({digits}, 10)", mended=mended)}
        WHEN {_matches(digits, landline)} THEN {_struct("landline", mended=mended)}
        WHEN {_matches(digits, not_mobile)} THEN {_struct("not_mobile", mended=mended)}
        WHEN {_matches(digits, f"{_INTRODUCED}(?:180020[0-9]*|{_EXPRESSIONS['known']})")} THEN NULL
        WHEN {_matches(digits, national + "[0-9]{9}")} THEN {_struct("not_uk", detail=NO_SUCH_NUMBER)}
        WHEN {_matches(digits, national + "[0-9]{3,8}")} THEN {_struct("not_uk", detail=TOO_SHORT)}
        WHEN {_matches(digits, national + "[0-9]{10,11}")} THEN {_struct("not_uk", detail=TOO_LONG)}
        WHEN {_matches(digits, _EXPRESSIONS["abroad"])} THEN {_struct("not_uk", detail=FOREIGN)}
    END"""


def _matches(text: str, pattern: str) -> str:
    return f"regexp_full_match({text}, {cells.quoted(pattern)})"


def _struct(kind: Kind, e164: str = "NULL::VARCHAR", *, mended: str = "FALSE", detail: str | None = None) -> str:
    reason = cells.quoted(detail) if detail else "NULL::VARCHAR"
    return f"{{'kind': {cells.quoted(kind)}, 'e164': {e164}, 'mended': {mended}, 'detail': {reason}}}"
