"""What somebody has answered so far: kept as JSON between visits, what is missing yet, and what follows from it."""

from collections.abc import Mapping
from datetime import date
from decimal import Decimal
from typing import TypeAlias

from batch_pipeline.questionnaires.definition import BODY_HEIGHT, BODY_WEIGHT
from batch_pipeline.questionnaires.form import Answers, Code, Form, Page, Question, Value
from batch_pipeline.rules import body_mass

Kept: TypeAlias = "dict[str, bool | int | str | list[str]]"


def as_json(answers: Answers) -> Kept:
    """The answers as they are kept between visits; a decimal keeps the digits it was given with."""
    return {link_id: _kept(value) for link_id, value in answers.items()}


def _kept(value: Value) -> bool | int | str | list[str]:
    if isinstance(value, tuple):
        return list(value)
    if isinstance(value, Decimal):
        return format(value, "f")
    return value.isoformat() if isinstance(value, date) else value


def from_json(form: Form, kept: Mapping[str, object]) -> dict[str, Value]:
    """``as_json`` back, by the same form. ``KeyError`` for a question that it doesn't have: it is another form then."""
    questions = {question.link_id: question for question in form.questions}
    return {link_id: _value(questions[link_id], value) for link_id, value in kept.items()}


def _value(question: Question, kept: object) -> Value:
    match question.kind:
        case "boolean":
            return bool(kept)
        case "choice" if isinstance(kept, list):
            return tuple(map(str, kept))  # pyright: ignore[reportUnknownArgumentType]
        case "date":
            return date.fromisoformat(str(kept))
        case "decimal":
            return Decimal(str(kept))
        case "integer":
            return int(str(kept))
        case _:
            return str(kept)


def plain(question: Question, value: Value | None) -> str:
    """An answer as a person reads it, without its unit; empty where there is none."""
    match value:
        case None:
            return ""
        case bool():
            return "Yes" if value else "No"
        case tuple():
            return ", ".join(choice.label for choice in question.choices if choice.value in value)
        case date():
            return f"{value.day} {value:%B %Y}"
        case Decimal():
            return format(value, "f")
        case _:
            return str(value)


def in_words(question: Question, value: Value | None) -> str:
    """``plain`` with the unit."""
    words = plain(question, value)
    return f"{words} {question.unit.label}" if words and question.unit else words


def missing(form: Form, answers: Answers) -> tuple[tuple[Page, Question], ...]:
    """The required questions without an answer, with their pages; what isn't asked of this person isn't missing."""
    return tuple(
        (page, question)
        for page in form.to_show(answers)
        for question in page.questions
        if question.required and question.link_id not in answers
    )


def computed(form: Form, answers: Answers) -> dict[str, Value]:
    """The answers that are worked out of others, by linkId: the body mass index, once height and weight are there.

    All of them: inches whose feet were mistyped, and are missing yet, are no height.
    """
    if not form.computed or any({BODY_HEIGHT, BODY_WEIGHT} & asked.codes for _, asked in missing(form, answers)):
        return {}
    held = form.in_force(answers)
    height = _total(form, held, BODY_HEIGHT, body_mass.CENTIMETRES)
    weight = _total(form, held, BODY_WEIGHT, body_mass.KILOGRAMS)
    index = body_mass.body_mass_index(height, weight)
    return {} if index is None else {question.link_id: index for question in form.computed}


def _total(form: Form, held: Answers, code: Code, units: Mapping[str, Decimal]) -> Decimal:
    return body_mass.total(
        (
            (Decimal(str(held[question.link_id])), question.unit.code or "")
            for question in form.questions
            if code in question.codes and question.unit is not None and question.link_id in held
        ),
        units,
    )
