"""What a text costs as an SMS: its downgrade to GSM-7, its parts, and how long a text may be on each channel.

The truth is Python (``downgrade``, ``sms_fragments``); ``downgrade_sql`` and ``fragments_sql`` are DuckDB
expressions that agree with it. Tables after 3GPP TS 23.038 and alphagov/notifications-utils; SPEC 2.6.
"""

import re
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Literal, NamedTuple

Encoding = Literal["gsm7", "ucs2"]

GSM_BASIC = (
    "@£$¥èéùìòÇ\nØø\rÅåΔ_ΦΓΛΩΠΨΣΘΞÆæßÉ !\"#¤%&'()*+,-./0123456789:;<=>?"
    "¡ABCDEFGHIJKLMNOPQRSTUVWXYZÄÖÑÜ§¿abcdefghijklmnopqrstuvwxyzäöñüà"
)
"""The default alphabet, one septet each. Its escape character itself isn't a character."""

GSM_EXTENSION = "\f^{}\\[~]|€"
"""The extension table: an escape and a character, two septets, never torn apart."""


class PartSize(NamedTuple):
    """Units (septets of GSM-7, UTF-16 code units of UCS-2) in a text of one part, and in each of several."""

    single: int
    each: int


PART_SIZES: Mapping[Encoding, PartSize] = MappingProxyType({"gsm7": PartSize(160, 153), "ucs2": PartSize(70, 67)})

LIMITS: Mapping[str, int] = MappingProxyType({"sms": 918, "nhs_app": 5_000, "email": 100_000})
"""The longest text by channel, in characters as a person counts them (Unicode code points, after the downgrade).

As GOV.UK Notify and NHS Notify do, an extension character or an emoji is one of the 918, though it
takes two units of the parts, which are what is paid for.
"""

SELF_BOOK_FRAGMENTS = 2
"""The most SMS fragments of a self-book message."""

DOWNGRADES: tuple[tuple[str, str], ...] = (
    # \r\n is made \n before this table is looked at.
    ("\n", "\r\x0b\x85\u2028\u2029"),
    (" ", "\t\xa0\u1680\u2000-\u200a\u202f\u205f\u3000"),
    ("'", "`\xb4\u02b9\u02bb\u02bc\u02c8\u2018-\u201b\u2032\u2035\u2039\u203a\uff07"),
    ('"', "\xab\xbb\u02ba\u201c-\u201f\u2033\u2036\uff02"),
    ("-", "\u2010-\u2015\u2043\u2212\ufe58\ufe63\uff0d"),
    ("..", "\u2025"),
    ("...", "\u2026"),
    # Nothing to see: zero-width spaces and joiners, soft hyphen, marks of direction, control characters.
    ("", "\xad\u061c\u180e\u200b-\u200f\u202a-\u202e\u2060-\u2064\u2066-\u2069\ufeff"),
    ("", "\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f"),
)
"""What a phone doesn't need to see as typed: (what it becomes, the characters and ranges ``a-z`` it is for).

Letters are never downgraded: a name with ``ŵ`` is sent as it is spelt, as UCS-2.
"""


def _points(characters: str) -> Iterator[int]:
    """The code points of characters and ``a-z`` ranges."""
    for first, last in re.findall("(.)(?:-(.))?", characters, re.DOTALL):
        yield from range(ord(first), ord(last or first) + 1)


def _re2_class(characters: str, *, ranges: bool = False) -> str:
    """A class body for RE2, DuckDB's regular expressions, of characters; ``-`` is a range only if asked for."""
    return "".join("-" if c == "-" and ranges else f"\\x{{{ord(c):x}}}" for c in characters)


_DOWNGRADE_MAP: Mapping[int, str] = {
    point: becomes for becomes, characters in DOWNGRADES for point in _points(characters)
}
_ALL_DOWNGRADED = "".join(_re2_class(characters, ranges=True) for _, characters in DOWNGRADES)
_INVISIBLE = " \n\f" + "".join(chr(point) for point, becomes in _DOWNGRADE_MAP.items() if not becomes.strip())
_INVISIBLE_CLASS = _re2_class(" \n\f") + "".join(
    _re2_class(characters, ranges=True) for becomes, characters in DOWNGRADES if not becomes.strip()
)


def downgrade(text: str) -> str:
    """The text as an SMS carries it: quotes, dashes, spaces and line ends plain, zero-width characters gone."""
    return text.replace("\r\n", "\n").translate(_DOWNGRADE_MAP)


def downgrade_sql(expression: str) -> str:
    """``downgrade`` of a VARCHAR expression. The expression is repeated: give it a column."""
    replaced = f"replace({expression}, chr(13) || chr(10), chr(10))"
    for becomes, characters in DOWNGRADES:
        target = becomes.replace("\n", "\\n").replace("'", "''")
        literal = "chr(10)" if becomes == "\n" else f"'{target}'"
        replaced = f"regexp_replace({replaced}, '[{_re2_class(characters, ranges=True)}]', {literal}, 'g')"
    return f"CASE WHEN regexp_matches({expression}, '[{_ALL_DOWNGRADED}]') THEN {replaced} ELSE {expression} END"


def is_blank(text: str | None) -> bool:
    """True of nothing, and of nothing but spaces, line ends and characters that can't be seen."""
    return text is None or not text.strip(_INVISIBLE)


def unless_blank_sql(expression: str, then: str | None = None) -> str:
    """The VARCHAR expression (or ``then``), NULL where ``is_blank`` holds. It is repeated: give it a column."""
    seen = f"regexp_matches({expression}, '[^{_INVISIBLE_CLASS}]')"
    # Nearly every value begins with a visible ASCII character, and needs no pattern.
    return f"CASE WHEN ascii({expression}) BETWEEN 33 AND 126 OR {seen} THEN {then or expression} END"


class Fragments(NamedTuple):
    """An SMS as a network carries and bills it; ``units`` are septets (gsm7) or UTF-16 code units (ucs2)."""

    encoding: Encoding
    units: int
    parts: int


def sms_fragments(text: str) -> Fragments:
    """The parts of a text exactly as given (``downgrade`` it first), never tearing an escape or surrogate pair."""
    encoding: Encoding = "gsm7" if _ALL_GSM.fullmatch(text) else "ucs2"
    doubles = len(_DOUBLES[encoding].findall(text))
    units = len(text) + doubles
    single, each = PART_SIZES[encoding]
    if units <= single:
        return Fragments(encoding, units, 1)
    if not doubles:  # nothing that could be torn
        return Fragments(encoding, units, -(-units // each))
    parts, used = 1, 0
    for character in text:
        size = 2 if _DOUBLES[encoding].match(character) else 1
        if used + size > each:
            parts, used = parts + 1, 0
        used += size
    return Fragments(encoding, units, parts)


_ALL_GSM = re.compile(f"[{re.escape(GSM_BASIC + GSM_EXTENSION)}]*")


_DOUBLES: Mapping[Encoding, re.Pattern[str]] = {
    "gsm7": re.compile(f"[{re.escape(GSM_EXTENSION)}]"),
    "ucs2": re.compile("[\U00010000-\U0010ffff]"),
}


def is_basic(text: str) -> bool:
    """Whether every character takes one septet, and the downgrade would leave them all as they are."""
    return all(character in _BASIC_AS_IT_IS for character in text)


def is_basic_sql(expression: str) -> str:
    """``is_basic`` of a VARCHAR expression: BOOLEAN, NULL of NULL."""
    return f"NOT regexp_matches({expression}, '[^{_re2_class(_BASIC_AS_IT_IS)}]')"


_BASIC_AS_IT_IS = GSM_BASIC.replace("\r", "")


def basic_fragments_sql(units: str) -> str:
    """The parts of a text that ``is_basic``, of so many characters, as INTEGER."""
    return f"CAST({_parts_sql(units, 'gsm7')} AS INTEGER)"


def fragments_sql(expression: str) -> str:
    """``sms_fragments(…).parts`` of a VARCHAR expression as INTEGER; the expression is repeated: give it a column.

    NULL (beside NULL texts) where only Python can tell: a text with pairs, in several parts, where
    it depends on what falls on a boundary. Each part but the last holds at least one unit less
    than its size, so the parts are between two divisions, and are sure where both agree.
    """
    basic, extension = _re2_class(GSM_BASIC), _re2_class(GSM_EXTENSION)
    length = f"length({expression})"
    return f"""CAST(CASE
  WHEN NOT regexp_matches({expression}, '[^{basic}]') THEN {_parts_sql(length, "gsm7")}
  WHEN NOT regexp_matches({expression}, '[^{basic}{extension}]')
    THEN {_parts_with_pairs_sql(_units_sql(expression, extension), "gsm7")}
  WHEN NOT regexp_matches({expression}, '[{_BEYOND_UTF16_UNIT}]') THEN {_parts_sql(length, "ucs2")}
  WHEN {expression} IS NOT NULL
    THEN {_parts_with_pairs_sql(_units_sql(expression, _BEYOND_UTF16_UNIT), "ucs2")}
END AS INTEGER)"""


_BEYOND_UTF16_UNIT = "\\x{10000}-\\x{10ffff}"


def _units_sql(expression: str, doubles: str) -> str:
    """Units, where characters of the class ``doubles`` take two."""
    return f"length({expression}) + len(regexp_extract_all({expression}, '[{doubles}]'))"


def _parts_sql(units: str, encoding: Encoding) -> str:
    single, each = PART_SIZES[encoding]
    return f"CASE WHEN {units} <= {single} THEN 1 ELSE ({units} + {each - 1}) // {each} END"


def _parts_with_pairs_sql(units: str, encoding: Encoding) -> str:
    single, each = PART_SIZES[encoding]
    fewest, most = f"(units + {each - 1}) // {each}", f"(units + {each - 2}) // {each - 1}"
    parts = f"CASE WHEN units <= {single} THEN 1 WHEN {fewest} = {most} THEN {fewest} END"
    # The lambda, so that the units are counted once: inside a CASE, DuckDB counts them at each mention.
    return f"list_transform([{units}], lambda units: {parts})[1]"
