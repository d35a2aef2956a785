"""A page's posted fields as answers; what can't be taken is told by field, in words that a patient understands.

What can be taken is, whatever is wrong beside it: a reading that can't wait must not be lost for a slip in another
field. A field that wasn't posted leaves its answer as it was, so a page may be sent in parts; one that was posted empty
takes the answer out.
"""

import re
import unicodedata
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from types import MappingProxyType

from batch_pipeline.questionnaires import blood_pressure
from batch_pipeline.questionnaires.form import DATE_PARTS, Answers, Form, Page, Question, Value
from batch_pipeline.rules.figures import in_figures

_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_WHOLE = re.compile(r"[+-]?[0-9]{1,9}", re.ASCII)
_LINE_END = re.compile("\r\n|[\r\v\f\x85\u2028\u2029]")
"""All that some program takes for one: an answer is a cell of a CSV file and a line of NDJSON later."""
_NO_TEXT = ("Cc", "Cs")
_UNSEEN = frozenset("\u200b\u2060\ufeff\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
"""Without width, or turning round what follows, where staff read it; joiners stay: names are written with them."""
_NUMBER = re.compile(r"[+-]?[0-9]{1,9}(\.[0-9]{1,6})?", re.ASCII)


class NotTaken(ValueError):
    """What is wrong with what was written, as the patient is told."""


@dataclass(frozen=True, slots=True)
class Posted:
    """What a page's fields came to."""

    answers: Answers
    """All of the form's so far, with what could be taken of this page. Keep them in any case, and at once."""
    errors: Mapping[str, str]
    """By the name of the first field that is to be mended, in the page's order; empty: go on to the next page."""
    warnings: Mapping[str, str]
    """As ``errors``, but of answers that were taken: unusual ones that weren't there before. The page is shown once
    more with them; sent again unchanged, it has no warning."""


def read_page(form: Form, page: Page, fields: Mapping[str, str], before: Answers, today: date) -> Posted:
    """Takes what was posted from a page (one of ``form.to_show(before)``), on that day of the patient's."""
    answers = dict(before)
    errors: dict[str, str] = {}
    for question in page.questions:
        if not any(name in fields for name in question.fields):
            if question.required and question.link_id not in answers:
                errors[question.link_id] = _unanswered(question)
            continue
        try:
            value = _value(question, fields)
        except NotTaken as fault:
            errors[question.link_id] = str(fault)
            continue
        if value is not None:
            answers[question.link_id] = value
        else:
            answers.pop(question.link_id, None)
            if question.required:
                errors[question.link_id] = _unanswered(question)
    for link_id in blood_pressure.torn(form, page, errors, answers, before):
        answers.pop(link_id, None)
    for link_id, fault in blood_pressure.faults(form, page, answers, today, before).items():
        errors.setdefault(link_id, fault)
        if isinstance(answers.get(link_id), date):
            # Readings under a wrong date would count as another day's; without one they wait for the right one.
            del answers[link_id]
            answers |= _former_date(form, page, link_id, answers, before, today)
    return Posted(
        answers,
        {question.fields[0]: errors[question.link_id] for question in page.questions if question.link_id in errors},
        _warnings(page, answers, before),
    )


def _former_date(
    form: Form, page: Page, link_id: str, answers: Answers, before: Answers, today: date
) -> dict[str, Value]:
    """The date that a page had, if its readings may have it still: one that came alone was held against nothing."""
    former = {link_id: before[link_id]} if link_id in before else {}
    wrong = blood_pressure.faults(form, page, {**answers, **former}, today, before)
    return {} if link_id in wrong else former


def _warnings(page: Page, answers: Answers, before: Answers) -> dict[str, str]:
    return {
        question.fields[0]: f"{question.name}: {_shown(value)} is unusual. Check that it is right"
        for question in page.questions
        if isinstance(value := answers.get(question.link_id), int | Decimal)
        and not question.usual.hold(value)
        and before.get(question.link_id) != value
    }


def _shown(value: int | Decimal) -> str:
    return format(Decimal(value), "f")


def _unanswered(question: Question) -> str:
    if question.kind in ("boolean", "choice"):
        return f"Choose an answer to “{question.name}”"
    return f"Fill in “{question.name}”"


def _value(question: Question, fields: Mapping[str, str]) -> Value | None:
    """The answer; ``None`` for an empty one. Raises ``NotTaken``."""
    if question.kind == "date":
        return _date(question, [in_figures(_line(fields.get(field, ""))) for field in question.fields])
    if question.several:
        ticked = zip(question.fields[1:], question.choices, strict=True)
        return tuple(choice.value for field, choice in ticked if fields.get(field)) or None
    if question.kind == "text":
        return _within_length(question, _text(fields[question.link_id])) or None
    written = _line(fields[question.link_id])
    return _READ[question.kind](question, written) if written else None


def _boolean(question: Question, written: str) -> bool:
    if written not in ("yes", "no"):
        raise NotTaken(_unanswered(question))
    return written == "yes"


def _choice(question: Question, written: str) -> tuple[str, ...]:
    if all(written != choice.value for choice in question.choices):
        raise NotTaken(_unanswered(question))
    return (written,)


def _integer(question: Question, written: str) -> int:
    written = _without_unit(question, written)
    if not _WHOLE.fullmatch(written):
        raise NotTaken(f"{question.name} must be a whole number, in figures")
    _hold_to(question, value := int(written))
    return value


def _decimal(question: Question, written: str) -> Decimal:
    written = _without_unit(question, written)
    if not _NUMBER.fullmatch(written):
        raise NotTaken(f"{question.name} must be a number, in figures")
    _hold_to(question, value := Decimal(written))
    return value


def _without_unit(question: Question, written: str) -> str:
    figures = in_figures(written)
    if question.unit is None:
        return figures
    return figures.casefold().removesuffix(question.unit.label.casefold()).rstrip()


def _hold_to(question: Question, value: int | Decimal) -> None:
    limits = question.allowed
    if limits.hold(value):
        return
    if limits.least is not None and limits.most is not None:
        raise NotTaken(f"{question.name} must be between {_shown(limits.least)} and {_shown(limits.most)}")
    if limits.least is not None:
        raise NotTaken(f"{question.name} must be {_shown(limits.least)} or more")
    raise NotTaken(f"{question.name} must be {_shown(limits.most or Decimal(0))} or less")


def _string(question: Question, written: str) -> str:
    return _within_length(question, written)


def _within_length(question: Question, written: str) -> str:
    if len(written) > question.max_length:
        raise NotTaken(
            f"{question.name} must be {question.max_length:,} characters or fewer: you have written {len(written):,}"
        )
    return written


def _date(question: Question, parts: list[str]) -> date | None:
    day, month, year = parts
    if not any(parts):
        return None
    if lacking := [name for name, part in zip(DATE_PARTS, parts, strict=True) if not part]:
        raise NotTaken(f"{question.name} must include a {' and a '.join(lacking)}")
    if month[:3].casefold() in _MONTHS:
        month = str(_MONTHS.index(month[:3].casefold()) + 1)
    whole = len(year) == 4 and all(_WHOLE.fullmatch(part) for part in (day, month, year))
    try:
        return date(*(int(part) if whole else 0 for part in (year, month, day)))
    except ValueError:
        raise NotTaken(f"{question.name} must be a real date, such as 27 3 2026") from None


_READ: Mapping[str, Callable[[Question, str], Value]] = MappingProxyType(
    {"boolean": _boolean, "choice": _choice, "decimal": _decimal, "integer": _integer, "string": _string}
)


def _line(written: str) -> str:
    """One line, tidied; what a keyboard puts in unseen is taken out."""
    return " ".join(_text(written).split())


def _text(written: str) -> str:
    """As written, without what FHIR allows in no text: control characters other than line ends and tabs."""
    ends = _LINE_END.sub("\n", written)
    return "".join(
        letter
        for letter in ends
        if letter in "\n\t" or not (letter in _UNSEEN or unicodedata.category(letter) in _NO_TEXT)
    ).strip()
