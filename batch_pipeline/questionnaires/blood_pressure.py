"""Blood pressure readings in a form: where they are asked for, what was given, how each day stands.

A form asks for readings where it has a section with the code of a blood pressure and in it two whole numbers with the
codes of its systolic and diastolic; a pulse may be beside them. The page has one date: that of its readings. So anybody
can write a questionnaire of their own that averages and warns as the shipped ones do.
"""

from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from functools import lru_cache
from typing import Literal

from batch_pipeline.questionnaires.form import (
    FORMS_AT_HAND,
    LOINC,
    SNOMED,
    Answers,
    Code,
    Form,
    Page,
    Question,
    Section,
)
from batch_pipeline.rules import blood_pressure

BLOOD_PRESSURE = frozenset({Code(SNOMED, "75367002"), Code(LOINC, "85354-9")})
SYSTOLIC = frozenset({Code(SNOMED, "271649006"), Code(LOINC, "8480-6")})
DIASTOLIC = frozenset({Code(SNOMED, "271650006"), Code(LOINC, "8462-4")})
PULSE = frozenset({Code(SNOMED, "78564009"), Code(LOINC, "8867-4")})
"""Either code is enough."""

OLDEST = timedelta(days=14)
"""A reading that was taken longer before it is given is a slip in its date: no link lives so long (SPEC 2.12)."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a form asks for one reading."""

    link_id: str
    """Of its section."""
    page: Page
    where: str
    """As in ``Morning, First reading``."""
    on: Question
    systolic: Question
    diastolic: Question
    pulse: Question | None


@dataclass(frozen=True, slots=True)
class Given:
    """A reading that was given, maybe with a number missing yet."""

    place: Place
    on: date | None
    systolic: int | None
    diastolic: int | None
    pulse: int | None

    @property
    def numbers(self) -> str:
        """As in ``135/85``; one that is missing yet is a dash."""
        return "/".join("–" if number is None else str(number) for number in (self.systolic, self.diastolic))

    @property
    def words(self) -> str:
        """The numbers, and the pulse where it was given."""
        pulse = "" if self.pulse is None else f", pulse {self.pulse}"
        return f"{self.numbers}{pulse}"

    @property
    def reading(self) -> blood_pressure.Reading | None:
        """For the average and the record, if nothing is missing and the two numbers aren't swapped."""
        if self.on is None or self.systolic is None or self.diastolic is None or self.systolic <= self.diastolic:
            return None
        return blood_pressure.Reading(self.on, self.systolic, self.diastolic)


@dataclass(frozen=True, slots=True)
class Noticed:
    """A reading in a range that the patient is given advice about."""

    given: Given
    band: blood_pressure.Band

    @property
    def words(self) -> str:
        """Which reading it is, and what it says."""
        return f"{self.given.place.page.title}, {self.given.place.where}: {self.given.numbers}"


@dataclass(frozen=True, slots=True)
class Day:
    """How one day's page stands."""

    page: Page
    on: date | None
    """Its date, once it was given; before, the one to suggest."""
    given: int
    """Whole readings."""
    asked: int
    state: Literal["done", "begun", "open", "later"]
    """``later``: it begins on ``on``, as the day before has only just begun."""


@lru_cache(maxsize=FORMS_AT_HAND)
def places(form: Form) -> tuple[Place, ...]:
    """Where the form asks for readings, in its order; empty for a questionnaire about something else."""
    return tuple(place for page in form.pages for place in _places(page))


def _places(page: Page) -> Iterator[Place]:
    dates = [question for question in page.questions if question.kind == "date"]
    for section in page.sections:
        if not BLOOD_PRESSURE & section.codes:
            continue
        systolic, diastolic, pulse = (_asked(section, codes) for codes in (SYSTOLIC, DIASTOLIC, PULSE))
        if dates and systolic and diastolic:
            yield Place(section.link_id, page, systolic.where, dates[0], systolic, diastolic, pulse)


def _asked(section: Section, codes: frozenset[Code]) -> Question | None:
    return next((item for item in section.items if isinstance(item, Question) and codes & item.codes), None)


def fault(form: Form) -> tuple[str, str] | None:
    """The linkId, and what is wrong with the way in which a form asks for readings; ``None`` if nothing is.

    A number that says it is a blood pressure and that nobody would judge is the worst fault of all.
    """
    for page in form.pages:
        for section in page.sections:
            if BLOOD_PRESSURE & section.codes and (what := _fault_of(page, section)):
                return section.link_id, what
    judged = {question.link_id for place in places(form) for question in (place.systolic, place.diastolic)}
    for question in form.questions:
        if question.codes & (SYSTOLIC | DIASTOLIC) and question.link_id not in judged:
            return question.link_id, (
                "it has the code of a blood pressure, but isn't one of two numbers in a section of its own: put the two "
                "into a group with SNOMED CT 75367002 within a page's group"
            )
    return None


def _fault_of(page: Page, section: Section) -> str | None:
    if section.link_id == "average" or section.link_id.endswith("/pulse"):
        return "the record knows the average and the pulses by such a name, and would take the two for one: give it another"
    if sum(question.kind == "date" for question in page.questions) != 1:
        return (
            f"page {page.link_id} has blood pressure readings: it needs one date question, and no other, for their date"
        )
    for codes, mend in ((SYSTOLIC, "271649006 for the systolic"), (DIASTOLIC, "271650006 for the diastolic")):
        asked = _asked(section, codes)
        if asked is None or asked.kind != "integer":
            return f"the section is a blood pressure: give it an integer with SNOMED CT {mend} number"
    return None


def given(form: Form, answers: Answers) -> tuple[Given, ...]:
    """What was given of each reading, in the form's order; one of which nothing was given isn't there."""
    held = form.in_force(answers)
    found = (
        Given(
            place,
            _date(held, place.on),
            _number(held, place.systolic),
            _number(held, place.diastolic),
            None if place.pulse is None else _number(held, place.pulse),
        )
        for place in places(form)
    )
    return tuple(each for each in found if (each.systolic, each.diastolic, each.pulse) != (None, None, None))


def _number(answers: Answers, question: Question) -> int | None:
    value = answers.get(question.link_id)
    return value if isinstance(value, int) else None


def _date(answers: Answers, question: Question) -> date | None:
    value = answers.get(question.link_id)
    return value if isinstance(value, date) else None


def average(form: Form, answers: Answers) -> blood_pressure.Average | None:
    """NICE's average of what was given so far; ``None`` while there is nothing after the first day."""
    readings = (each.reading for each in given(form, answers))
    return blood_pressure.average(reading for reading in readings if reading is not None)


def noticed(form: Form, answers: Answers, today: date) -> tuple[Noticed, ...]:
    """Every reading that the patient is given advice about, the first day's too, and those that lack a number yet."""
    return tuple(
        Noticed(each, band)
        for each in given(form, answers)
        if (band := blood_pressure.band(each.systolic, each.diastolic, today)) is not None
    )


def days(form: Form, answers: Answers, today: date) -> tuple[Day, ...]:
    """Every page with readings, in order. The first that isn't begun is open, from the day after the latest one on."""
    held = given(form, answers)
    latest = max((each.on for each in held if each.on is not None), default=None)
    free = today if latest is None else max(today, latest + timedelta(days=1))
    asked = Counter(place.page.link_id for place in places(form))
    found: list[Day] = []
    for page in form.pages:
        readings = _on(page, held)
        whole = sum(each.reading is not None for each in readings)
        if readings:
            on = readings[0].on
            found.append(Day(page, on, whole, asked[page.link_id], "done" if whole == asked[page.link_id] else "begun"))
        elif page.link_id in asked:
            found.append(Day(page, free, 0, asked[page.link_id], "open" if free <= today else "later"))
            free += timedelta(days=1)
    return tuple(found)


def _on(page: Page, held: Sequence[Given]) -> list[Given]:
    return [each for each in held if each.place.page.link_id == page.link_id]


def faults(form: Form, page: Page, answers: Answers, today: date, before: Answers | None = None) -> dict[str, str]:
    """What is wrong with a page's readings as a whole, by the linkId of the answer that is to be mended.

    A date that readings had ``before`` wasn't old when it was given, and isn't judged by its age again; without it, the
    answers are those that are kept already.
    """
    held = given(form, answers)
    here = _on(page, held)
    had = next((each.on for each in _on(page, given(form, answers if before is None else before))), None)
    found: dict[str, str] = {}
    for each in here:
        found.update(_of_pair(each))
    if here and (what := _of_date(here[0], held, had, today)):
        found[here[0].place.on.link_id] = what
    return found


def torn(form: Form, page: Page, refused: Collection[str], answers: Answers, before: Answers) -> tuple[str, ...]:
    """The numbers that were to be replaced and weren't, of readings whose other number was: it isn't theirs any more."""
    return tuple(
        mine.link_id
        for place in places(form)
        if place.page.link_id == page.link_id
        for mine, other in ((place.systolic, place.diastolic), (place.diastolic, place.systolic))
        if mine.link_id in refused and answers.get(other.link_id) != before.get(other.link_id)
    )


def _of_pair(each: Given) -> dict[str, str]:
    place = each.place
    if each.systolic is None:
        return {place.systolic.link_id: f"{place.systolic.name}: enter this number as well"}
    if each.diastolic is None:
        return {place.diastolic.link_id: f"{place.diastolic.name}: enter this number as well"}
    if each.systolic <= each.diastolic:
        return {
            place.systolic.link_id: f"{place.systolic.name} must be higher than the other number. "
            "Check that you have not swapped them"
        }
    return {}


def _of_date(each: Given, held: Sequence[Given], had: date | None, today: date) -> str | None:
    name = each.place.on.name
    if each.on is None:
        return f"{name}: enter the date of these readings"
    if each.on > today:
        return f"{name} must be today or in the past"
    if each.on < today - OLDEST and each.on != had:
        return f"{name} must be within the last {OLDEST.days} days"
    for other in held:
        if other.on == each.on and other.place.page.link_id != each.place.page.link_id:
            return f"{name}: {other.place.page.title} has the same date. Give each day its own date"
    return None
