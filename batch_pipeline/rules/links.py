"""Personal links: what their address is made of, how long they live, and what a date of birth that is tried comes to.

SPEC 2.12. A link belongs to a patient of a batch. Its token is 128 bits that nobody can tell from chance without the
home's key, and they are the same whenever they are worked out again: a chunk that is posted a second time, or by a
ledger that was restored from a copy, carries the address that the patient has already. Nobody keeps the token itself;
the ledger knows it by its hash.
"""

import hashlib
import hmac
import re
import string
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from types import MappingProxyType
from typing import Literal

from batch_pipeline.rules import dates
from batch_pipeline.rules.dates import DobProblem
from batch_pipeline.rules.figures import in_figures

Kind = Literal["attachment", "questionnaire", "self_book"]
Standing = Literal["open", "locked", "gone"]
"""``gone`` is one that was revoked, or whose time is over: to whoever has it, as if it had never been."""

_ALPHABET = string.digits + string.ascii_uppercase + string.ascii_lowercase
_PAIRS = tuple(first + second for second in _ALPHABET for first in _ALPHABET)
"""Two characters at a time: a million links are made at once."""
_BYTES = 16
TOKEN_CHARACTERS = 22
"""Of base62, as many as 128 bits take: each one costs in a text."""
PLACEHOLDER = "YourPersonalLinkIsHere"
"""Stands where a token will, in texts that are planned, counted, shown and queued: as long, and of the same alphabet.

A patient whose name were to read so would be sent their own token in its place.
"""
FIELD = "link"
"""``{{ link }}`` in a message is the patient's own address."""


@dataclass(frozen=True, slots=True)
class LinkKeys:
    """The home's keys of all that has to do with links, each for one purpose."""

    tokens: bytes = field(repr=False)
    births: bytes = field(repr=False)
    sessions: bytes = field(repr=False)


def token_of(keys: LinkKeys, batch: str, patient: str) -> str:
    """The token of a patient's (keyed hash) link in a batch."""
    digest = hmac.digest(keys.tokens, f"{batch}:{patient}".encode(), "sha256")
    number = int.from_bytes(digest[:_BYTES])
    pairs: list[str] = []
    for _ in range(TOKEN_CHARACTERS // 2):
        number, place = divmod(number, len(_PAIRS))
        pairs.append(_PAIRS[place])
    return "".join(pairs)


def hash_of(token: str) -> str:
    """By which the ledger knows a token. Whatever was typed has one."""
    return hashlib.sha256(token.encode(errors="replace")).hexdigest()


def birth_hash(keys: LinkKeys, token_hash: str, born: date) -> str:
    """What the ledger keeps of a date of birth: equal dates of two patients look different in it."""
    return hmac.digest(keys.births, f"{token_hash}:{born.isoformat()}".encode(), "sha256").hex()


def address(base_url: str, token: str = PLACEHOLDER) -> str:
    """A link's address, at the workspace's own."""
    return f"{base_url}/{token}"


def stands_apart(text: str, link: str) -> bool:
    """Whether nothing in a text is so near to an address that a phone, or a mail program, would make it a part of it."""
    address = re.escape(link)
    apart = rf"(?<![^\s(\[\"']){address}(?=[.,;:!?)\]\"']*(?:\s|$))"
    return len(re.findall(apart, text)) == len(re.findall(address, text))


def completed(text: str, token: str) -> str:
    """A queued text with the patient's own token in its place."""
    return text.replace(PLACEHOLDER, token)


def retold(text: str) -> str:
    """A queued text as the record has it: that a link was in it, and not which."""
    return text.replace(PLACEHOLDER, "[personal link]")


# How long a link lives -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Life:
    """From when the message went: so long in all. From the patient's first answer, where that counts: so long at most."""

    in_all: timedelta
    from_first_answer: timedelta | None = None


LIVES: Mapping[Kind, Life] = MappingProxyType(
    {
        "attachment": Life(timedelta(days=28)),
        "questionnaire": Life(timedelta(days=7)),
        "self_book": Life(timedelta(days=7)),
    }
)
QUESTIONNAIRE_LIVES: Mapping[str, Life] = MappingProxyType(
    {
        "bp_4_day": Life(timedelta(days=6), timedelta(days=4)),
        "bp_7_day": Life(timedelta(days=9), timedelta(days=7)),
    }
)
"""Those that have a life of their own: it leaves a patient some days to begin in."""


def kind_of(message_type: str, booking: str | None) -> Kind:
    """What a link of a message opens: what the message is about goes before a file that comes with it.

    A self-book message without slots asks patients to book by telephone.
    """
    if message_type == "questionnaire":
        return "questionnaire"
    return "self_book" if booking is not None else "attachment"


def life_of(kind: Kind, questionnaire: str | None) -> Life:
    """How long a link lives."""
    return QUESTIONNAIRE_LIVES.get(questionnaire or "", LIVES[kind])


def ends_at(life: Life, sent_at: datetime, first_answer_at: datetime | None = None) -> datetime:
    """When a link's life is over, whose message went out (last, where a text followed) at ``sent_at``."""
    in_all = sent_at + life.in_all
    if first_answer_at is None or life.from_first_answer is None:
        return in_all
    return min(in_all, first_answer_at + life.from_first_answer)


def standing(*, revoked: bool, locked: bool, ends: datetime, now: datetime) -> Standing:
    """What a link is at ``now``."""
    if revoked or now >= ends:
        return "gone"
    return "locked" if locked else "open"


# Dates of birth that are tried ---------------------------------------------------------------------------------------

MOST_WRONG = 5
"""So many wrong dates of birth lock a link."""
WRONG_BY_ADDRESS = 100
WRONG_WITHIN = timedelta(hours=1)
"""So many wrong ones from one network address within this time, whatever the links: then it has to wait.

Behind the address of a mobile network there may be thousands of patients, a few of whom mistype.
"""

PROBLEMS: Mapping[DobProblem, str] = MappingProxyType(
    {
        DobProblem.UNREADABLE: "Date of birth must be a real date",
        DobProblem.TWO_DIGIT_YEAR: "Year must include 4 numbers",
        DobProblem.NO_SUCH_DAY: "Date of birth must be a real date",
        DobProblem.FUTURE: "Date of birth must be in the past",
        DobProblem.BEFORE_1900: "Date of birth must be after 1899",
    }
)
_PARTS = ("day", "month", "year")


@dataclass(frozen=True, slots=True)
class NotADate:
    """What a patient typed can't be a date of birth: why, and which parts of it. It is no wrong try."""

    says: str
    parts: tuple[str, ...]


def typed_date(day: str, month: str, year: str, today: date) -> date | NotADate:
    """The date of birth that a patient typed, in three parts; the month may have its name."""
    typed = dict(zip(_PARTS, (in_figures(part).strip() for part in (day, month, year)), strict=True))
    if missing := tuple(name for name, part in typed.items() if not part):
        if len(missing) == len(_PARTS):
            return NotADate("Enter your date of birth", _PARTS)
        return NotADate(f"Date of birth must include a {' and a '.join(missing)}", missing)
    found = dates.parse("/".join(typed.values()), today)
    if isinstance(found, date):
        return found
    problem = found or DobProblem.UNREADABLE
    return NotADate(PROBLEMS[problem], ("year",) if problem is DobProblem.TWO_DIGIT_YEAR else _PARTS)
