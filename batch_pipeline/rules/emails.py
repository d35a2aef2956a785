"""Email addresses: what a cell holds, and whether a message can go there (SPEC 2.1).

The truth is `classify`: mend what stands around the address, refuse what would be a guess, ask ``email-validator``
about the syntax (never the DNS). Names reserved for tests and documentation (``example.org``, ``.test``)
are good addresses here; those that can never have mail (``.invalid``, ``.local``, ``.onion``, …) and domains without a
dot aren't, nor are addresses with letters outside ASCII before the @, which the mail services don't take.

Two forms of it are for set work. `plain_sql` finds nearly all the good addresses of a real column; `fast_sql` says what
`classify` does of the (distinct) cells that are left, and leaves null those where only `classify` can tell.
"""

import re
from collections.abc import Iterable
from string import ascii_lowercase
from typing import Final, Literal, NamedTuple

from email_validator import SPECIAL_USE_DOMAIN_NAMES, EmailNotValidError, validate_email

from batch_pipeline.rules import cells

Kind = Literal["none", "good", "bad"]


class Email(NamedTuple):
    """What an email cell holds.

    ``address``, for a good one: the domain in lower case, international names as ``xn--…``. ``mended``: something was
    taken off around the address, or a word for "nothing" was taken as empty. ``detail`` says why an address
    is bad, and never holds it.
    """

    kind: Kind
    address: str | None
    mended: bool
    detail: str | None


TWO_ADDRESSES: Final = "two addresses in one cell"
NO_AT: Final = "no @ sign"
OTHER_TEXT: Final = "other text beside the address"
TOO_LONG: Final = "longer than 254 characters"
NOT_VALID: Final = "not a valid address"

MAX_LENGTH: Final = 254  # characters, RFC 5321

# What may stand around an address and is taken off. An address can't end with any of it, and begins with none but an
# apostrophe (in a spreadsheet the mark for "this is text"), a backtick or a brace: on paper only, and nobody's.
_AROUND: Final = " <>()\\[\\]{}\"'`\u2018\u2019\u201c\u201d\u00ab\u00bb,;:."
_BEFORE: Final = f"^(?:[{_AROUND}]|{cells.any_case('mailto:')})+"
_AFTER: Final = f"[{_AROUND}]+$"
_BESIDE: Final = r"[ ()<>,;]"

_DECORATION = re.compile(f"{_BEFORE}|{_AFTER}")
_OTHER_TEXT = re.compile(_BESIDE)


def classify(text: str | None) -> Email:
    """What the cell holds; the truth that `fast_sql` agrees with. About 25,000 cells a second."""
    if text is None or cells.is_empty(text):
        return Email("none", None, mended=not cells.is_blank(text), detail=None)
    address = _DECORATION.sub("", cells.tidy(text))
    refused = _refused(address)
    if refused:
        return Email("bad", None, mended=False, detail=refused)
    local, _, domain = address.partition("@")
    try:
        valid = validate_email(address, check_deliverability=False, test_environment=True, allow_smtputf8=False)
    except EmailNotValidError:
        return Email("bad", None, mended=False, detail=NOT_VALID)
    if "." not in domain:  # test_environment lets a bare "test" through
        return Email("bad", None, mended=False, detail=NOT_VALID)
    return Email("good", f"{local}@{valid.ascii_domain}", mended=address != text, detail=None)


def _refused(address: str) -> str | None:
    """Why the cell isn't read as an address at all, or None when it may be."""
    if address.count("@") != 1:
        return TWO_ADDRESSES if "@" in address else NO_AT
    if _OTHER_TEXT.search(address):
        return OTHER_TEXT
    return TOO_LONG if len(address) > MAX_LENGTH else None


# ---- the fast path -------------------------------------------------------------------------------------------------


def _names_unlike(words: Iterable[str]) -> str:
    """A pattern for top-level names that don't begin like one of ``words``, all longer than three letters; any case."""
    starts = {word[:3] for word in words}
    ways: list[str] = []
    for known in sorted({start[:length] for start in starts for length in range(3)}):
        taken = {start[len(known)] for start in starts if start.startswith(known)}
        free = "".join(letter for letter in ascii_lowercase if letter not in taken)
        ways.append(f"{cells.any_case(known)}[{free}{free.upper()}]")
    return f"(?:[A-Za-z]{{1,3}}|(?:{'|'.join(ways)})[A-Za-z]*)"


# Narrower than the truth: no rare signs before the @, no doubled hyphens after it, no name like a reserved one. With at
# most 64 characters in all, every limit on the lengths of the parts is kept.
_RESERVED: Final = {name.rpartition(".")[2] for name in SPECIAL_USE_DOMAIN_NAMES} - {"test"}
_WORD: Final = "[A-Za-z0-9_+'-]"
_LOCAL: Final = rf"[A-Za-z0-9_+-]{_WORD}*(?:\.{_WORD}+)*"
_LABEL: Final = "[A-Za-z0-9]+(?:-[A-Za-z0-9]+)*"
_PLAIN: Final = rf"{_LOCAL}@(?:{_LABEL}\.)+{_names_unlike(_RESERVED)}"
_PLAIN_LENGTH: Final = 64
_CLEARLY_BAD: Final = rf"{_LOCAL}@{_LABEL}|[^@]*\.\.[^@]*@[^@]*|[^@]*@[^@]*\.\.[^@]*"  # no dot in the domain; two dots


def plain_sql(column: str) -> str:
    """The address as a DuckDB expression, of the cells that are good as they stand, whatever their domain's case; else NULL.

    A narrower `fast_sql`, for a whole column: what it leaves may be a good address all the same.
    """
    return f"""CASE WHEN strlen({column}) <= {_PLAIN_LENGTH} AND {_matches(column, _PLAIN)} THEN
        CASE WHEN lower({column}) = {column} THEN {column} ELSE {_lowered_domain_sql(column)} END
    END"""


def fast_sql(texts: str) -> str:
    """`classify` as a DuckDB query over a relation ``texts`` with the column ``raw``: ``raw, answer``.

    ``answer``: STRUCT(kind, address, mended, detail), or NULL where only `classify` can tell (an empty cell is of kind
    ``none``).
    """
    short = f"strlen(raw) <= {_PLAIN_LENGTH}"
    return f"""
        SELECT raw, CASE
            WHEN raw IS NULL THEN {_struct("none")}
            WHEN plain IS NOT NULL THEN {_struct("good", "plain")}
            WHEN {cells.empty_sql("raw")} THEN {_struct("none", mended=f"NOT {cells.blank_sql('raw')}")}
            WHEN NOT contains(raw, '@') THEN {_struct("bad", detail=NO_AT)}
            WHEN regexp_matches(raw, '@[^@]*@') THEN {_struct("bad", detail=TWO_ADDRESSES)}
            WHEN {short} THEN {_undecorated_sql("bare")}
        END AS answer
        FROM (
            SELECT raw, {plain_sql("raw")} AS plain, CASE WHEN {short} THEN {_without_decoration_sql("raw")} END AS bare
            FROM {texts}
        )"""


def _lowered_domain_sql(address: str) -> str:
    return f"split_part({address}, '@', 1) || '@' || lower(split_part({address}, '@', 2))"


def _without_decoration_sql(column: str) -> str:
    before, after = cells.quoted(_BEFORE), cells.quoted(_AFTER)
    return f"regexp_replace(regexp_replace({cells.tidied_sql(column)}, {before}, ''), {after}, '')"


def _undecorated_sql(address: str) -> str:
    """What a short cell with one @ holds that isn't plain as given: mended, or bad; null unless that is certain."""
    return f"""CASE
        WHEN {_matches(address, _PLAIN)} THEN {_struct("good", _lowered_domain_sql(address), mended="TRUE")}
        WHEN regexp_matches({address}, {cells.quoted(_BESIDE)}) THEN {_struct("bad", detail=OTHER_TEXT)}
        WHEN {_matches(address, _CLEARLY_BAD)} THEN {_struct("bad", detail=NOT_VALID)}
    END"""


def _matches(text: str, pattern: str) -> str:
    return f"regexp_full_match({text}, {cells.quoted(pattern)})"


def _struct(kind: Kind, address: str = "NULL::VARCHAR", *, mended: str = "FALSE", detail: str | None = None) -> str:
    reason = cells.quoted(detail) if detail else "NULL::VARCHAR"
    return f"{{'kind': {cells.quoted(kind)}, 'address': {address}, 'mended': {mended}, 'detail': {reason}}}"
