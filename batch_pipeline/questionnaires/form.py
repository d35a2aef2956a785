"""A questionnaire as pages show it: what to ask, in which order, and when. Nothing of how it is drawn.

A page is one HTML form that needs no JavaScript: whether a question is asked depends on pages before it only, so a
page never has to change while it is filled in.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from decimal import Decimal
from functools import lru_cache
from typing import Any, Literal, TypeAlias

Kind = Literal["boolean", "choice", "date", "decimal", "integer", "string", "text"]
Value: TypeAlias = bool | int | Decimal | date | str | tuple[str, ...]
"""Of a choice: the chosen ones' ``Choice.value``, one or several."""
Answers: TypeAlias = Mapping[str, Value]
"""By linkId; a question without an answer isn't there."""

SNOMED = "http://snomed.info/sct"
LOINC = "http://loinc.org"
UCUM = "http://unitsofmeasure.org"

DATE_PARTS = ("day", "month", "year")
FORMS_AT_HAND = 64
"""Of so many forms a process remembers what follows from them alone."""


@dataclass(frozen=True, slots=True)
class Code:
    """A code in a system, as FHIR has it."""

    system: str
    code: str


@dataclass(frozen=True, slots=True)
class Choice:
    """One of the answers to choose from."""

    value: str
    """What the form posts."""
    label: str
    answer: Mapping[str, Any]
    """What FHIR says of it, such as ``{"valueCoding": {…}}``."""


@dataclass(frozen=True, slots=True)
class Unit:
    """A unit, with its UCUM code where it has one."""

    label: str
    code: str | None


@dataclass(frozen=True, slots=True)
class Limits:
    """The least and the most; ``None``: no limit on that side."""

    least: Decimal | None = None
    most: Decimal | None = None

    def hold(self, value: Decimal | int) -> bool:
        """Whether the value is within."""
        return (self.least is None or value >= self.least) and (self.most is None or value <= self.most)


@dataclass(frozen=True, slots=True)
class Condition:
    """One ``enableWhen``."""

    link_id: str
    operator: Literal["exists", "=", "!=", ">", "<", ">=", "<="]
    value: Value

    def holds(self, answers: Answers) -> bool:
        """As R4 has it: without an answer only ``!=``, and ``exists`` false, hold."""
        given = answers.get(self.link_id)
        if self.operator == "exists":
            return (given is not None) == self.value
        if given is None:
            return self.operator == "!="
        if self.operator in ("=", "!="):
            same = self.value in given if isinstance(given, tuple) else given == self.value
            return same == (self.operator == "=")
        return self._compares(given)

    def _compares(self, given: Any) -> bool:
        mine: Any = self.value
        least, most = (mine, given) if ">" in self.operator else (given, mine)
        return least < most or (self.operator.endswith("=") and least == most)


@dataclass(frozen=True, slots=True)
class When:
    """Whether something is asked."""

    conditions: tuple[Condition, ...] = ()
    every: bool = True
    """All of them, or any."""

    def holds(self, answers: Answers) -> bool:
        """Without conditions always."""
        if not self.conditions:
            return True
        held = [condition.holds(answers) for condition in self.conditions]
        return all(held) if self.every else any(held)


@dataclass(frozen=True, slots=True)
class Question:
    """One question with what is allowed as its answer."""

    link_id: str
    kind: Kind
    label: str
    where: str
    """The titles of the sections it is in, as in ``Morning, First reading``; empty outside."""
    hint: str
    required: bool
    unit: Unit | None
    allowed: Limits
    """Anything else is refused."""
    usual: Limits
    """Anything else is taken, and asked about once."""
    max_length: int
    choices: tuple[Choice, ...]
    several: bool
    codes: frozenset[Code]
    when: When

    @property
    def name(self) -> str:
        """What errors call it: labels alone may be the same several times on a page."""
        return f"{self.where}: {self.label}" if self.where else self.label

    @property
    def fields(self) -> tuple[str, ...]:
        """The names of its fields in the form.

        A date has three. A choice of several has one a choice, and first one that is hidden and empty: it tells "none
        ticked" from "not on the page".
        """
        if self.kind == "date":
            return tuple(f"{self.link_id}:{part}" for part in DATE_PARTS)
        if self.several:
            return (self.link_id, *(f"{self.link_id}:{n}" for n in range(1, len(self.choices) + 1)))
        return (self.link_id,)

    def shown(self, value: Value | None) -> dict[str, str]:
        """The fields' values for an answer, to fill the form with; what isn't there is empty or not ticked."""
        if value is None:
            return {}
        if isinstance(value, date):
            parts = (value.day, value.month, value.year)
            return {field: str(part) for field, part in zip(self.fields, parts, strict=True)}
        if self.several and isinstance(value, tuple):
            return {
                field: "yes"
                for field, choice in zip(self.fields[1:], self.choices, strict=True)
                if choice.value in value
            }
        if isinstance(value, tuple):
            return {self.link_id: value[0]}
        if isinstance(value, bool):
            return {self.link_id: "yes" if value else "no"}
        return {self.link_id: format(value, "f") if isinstance(value, Decimal) else str(value)}


@dataclass(frozen=True, slots=True)
class Words:
    """A paragraph between the questions."""

    link_id: str
    text: str
    when: When


@dataclass(frozen=True, slots=True)
class Section:
    """Questions under a heading, on one page."""

    link_id: str
    title: str
    items: "tuple[Item, ...]"
    codes: frozenset[Code]
    when: When


Item: TypeAlias = Question | Words | Section


@dataclass(frozen=True, slots=True)
class Page:
    """What is asked at a time. BP: a day."""

    link_id: str
    """Of its group; of its first item, where it has none."""
    title: str
    items: tuple[Item, ...]
    when: When
    is_group: bool
    """Whether FHIR has it as a group, or its items stand at the top."""

    @property
    def questions(self) -> tuple[Question, ...]:
        """All of them in order, also those in sections."""
        return tuple(_questions(self.items))

    @property
    def sections(self) -> tuple[Section, ...]:
        """All of them in order, also those in sections."""
        return tuple(_sections(self.items))


@dataclass(frozen=True, slots=True)
class Form:
    """A questionnaire. ``id`` is what a batch file calls it."""

    id: str
    title: str
    introduction: str
    version: str
    url: str
    pages: tuple[Page, ...]
    computed: tuple[Question, ...]
    """Not asked, but worked out of the others: ``answers.computed``."""

    def __hash__(self) -> int:
        """By its name: what follows from a form alone is worked out once for all the patients that it is asked of."""
        return hash((self.url, self.version, self.id))

    @property
    def questions(self) -> tuple[Question, ...]:
        """Everything that may be asked."""
        return _every_question(self)

    def page(self, link_id: str) -> Page:
        """The page of that linkId. ``KeyError`` for none."""
        for page in self.pages:
            if page.link_id == link_id:
                return page
        raise KeyError(link_id)

    def to_show(self, answers: Answers) -> tuple[Page, ...]:
        """The pages that are asked of somebody with these answers, each with what is asked on it."""
        return tuple(page for page, _ in self._walk(answers))

    def in_force(self, answers: Answers) -> dict[str, Value]:
        """The answers, in the form's order, to what is asked: one that was given to a question that is asked no more is out."""
        return {link_id: value for _, found in self._walk(answers) for link_id, value in found.items()}

    def _walk(self, answers: Answers) -> Iterator[tuple[Page, dict[str, Value]]]:
        held: dict[str, Value] = {}
        fixed = _fixed(self)
        for page in self.pages:
            shown, asked = page, fixed.get(page.link_id)
            if asked is None:
                shown = replace(page, items=_to_show(page.items, held) if page.when.holds(held) else ())
                asked = tuple(question.link_id for question in shown.questions)
            if not shown.items:
                continue
            found = {link_id: answers[link_id] for link_id in asked if link_id in answers}
            held.update(found)
            yield shown, found


@lru_cache(maxsize=FORMS_AT_HAND)
def _every_question(form: Form) -> tuple[Question, ...]:
    return tuple(question for page in form.pages for question in page.questions)


@lru_cache(maxsize=FORMS_AT_HAND)
def _fixed(form: Form) -> Mapping[str, tuple[str, ...]]:
    """By page, the linkIds of its questions, where all of it is asked of everybody."""
    return {
        page.link_id: tuple(question.link_id for question in page.questions)
        for page in form.pages
        if not any(each.when.conditions for each in (page, *page.sections, *_leaves(page.items)))
    }


def _leaves(items: Sequence[Item]) -> Iterator[Question | Words]:
    for item in items:
        if isinstance(item, Section):
            yield from _leaves(item.items)
        else:
            yield item


def _to_show(items: Sequence[Item], answers: Answers) -> tuple[Item, ...]:
    shown: list[Item] = []
    for item in items:
        if not item.when.holds(answers):
            continue
        if not isinstance(item, Section):
            shown.append(item)
        elif inner := _to_show(item.items, answers):
            shown.append(replace(item, items=inner))
    return tuple(shown)


def _questions(items: Sequence[Item]) -> Iterator[Question]:
    for item in items:
        if isinstance(item, Section):
            yield from _questions(item.items)
        elif isinstance(item, Question):
            yield item


def _sections(items: Sequence[Item]) -> Iterator[Section]:
    for item in items:
        if isinstance(item, Section):
            yield item
            yield from _sections(item.items)
