"""Answers as FHIR: a ``QuestionnaireResponse``, and for blood pressure the ``Observation``s in it (PROVIDERS 5)."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from typing import Any, Literal, TypeAlias

from batch_pipeline.questionnaires import blood_pressure
from batch_pipeline.questionnaires.answers import computed
from batch_pipeline.questionnaires.blood_pressure import Given
from batch_pipeline.questionnaires.fhir import checked
from batch_pipeline.questionnaires.form import LOINC, SNOMED, UCUM, Answers, Form, Item, Question, Section, Value, Words

Json: TypeAlias = "dict[str, Any]"
Status = Literal["in-progress", "completed", "amended", "stopped"]

_NHS_NUMBER = "https://fhir.nhs.uk/Id/nhs-number"
_CATEGORY = "http://terminology.hl7.org/CodeSystem/observation-category"


@dataclass(frozen=True, slots=True)
class About:
    """Whose answers they are, and what they are known by: the same each time they are written."""

    system: str
    value: str
    nhs_number: str

    def __repr__(self) -> str:
        """Without the patient: it may get into a traceback."""
        return f"About(value={self.value!r})"

    @property
    def identifier(self) -> Json:
        """Of the response."""
        return {"system": self.system, "value": self.value}

    def part(self, name: str) -> Json:
        """Of one of its observations."""
        return {"system": self.system, "value": f"{self.value}/{name}"}

    @property
    def subject(self) -> Json:
        """The patient, by NHS number."""
        return {"type": "Patient", "identifier": {"system": _NHS_NUMBER, "value": self.nhs_number}}


def response(form: Form, answers: Answers, about: About, *, status: Status, authored: datetime) -> Json:
    """The answers in force as a valid ``QuestionnaireResponse``. ``authored``: when they were last given (aware)."""
    if authored.tzinfo is None:
        raise ValueError("authored has to say its time zone")
    held = {**form.in_force(answers), **computed(form, answers)}
    items: list[Json] = []
    for page in form.pages:
        inner = list(_items(page.items, held))
        if inner and page.is_group:
            items.append({"linkId": page.link_id, "text": page.title, "item": inner})
        else:
            items += inner
    items += _items(form.computed, held)
    made: Json = {
        "resourceType": "QuestionnaireResponse",
        "identifier": about.identifier,
        "questionnaire": f"{form.url}|{form.version}",
        "status": status,
        "subject": about.subject,
        "authored": authored.isoformat(timespec="seconds"),
        "source": about.subject,
    }
    if items:
        made["item"] = items
    return checked(made, "QuestionnaireResponse")


def _items(items: Sequence[Item], held: Answers) -> Iterator[Json]:
    for item in items:
        if isinstance(item, Section):
            if inner := list(_items(item.items, held)):
                text = {"text": item.title} if item.title else {}
                yield {"linkId": item.link_id, **text, "item": inner}
        elif not isinstance(item, Words) and item.link_id in held:
            yield {"linkId": item.link_id, "text": item.label, "answer": _answer(item, held[item.link_id])}


def _answer(question: Question, value: Value) -> list[Json]:
    if isinstance(value, tuple):
        return [dict(choice.answer) for choice in question.choices if choice.value in value]
    match question.kind:
        case "boolean":
            return [{"valueBoolean": value}]
        case "date":
            return [{"valueDate": str(value)}]
        case "decimal":
            return [{"valueDecimal": _number(Decimal(str(value)))}]
        case "integer":
            return [{"valueInteger": value}]
        case _:
            return [{"valueString": value}]


def _number(value: Decimal) -> int | float:
    return int(value) if value == value.to_integral_value() else float(value)


def observations(form: Form, answers: Answers, about: About) -> list[Json]:
    """A valid ``Observation`` for each whole blood pressure reading and its pulse, and for their average if it is valid.

    Of another questionnaire: none. Each says which response it comes from, and has an identifier of its own.
    """
    return [checked(one, "Observation") for one in _observations(form, answers, about)]


def observed(form: Form, answers: Answers, about: About) -> list[str]:
    """The identifiers of ``observations``, without asking whether they are valid."""
    return [one["identifier"][0]["value"] for one in _observations(form, answers, about)]


def _observations(form: Form, answers: Answers, about: About) -> list[Json]:
    found = blood_pressure.given(form, answers)
    made: list[Json] = []
    for each in found:
        if each.reading is None or each.on is None:
            continue
        made.append(_reading(each, about, each.on))
        if each.pulse is not None:
            made.append(_pulse(each, about, each.on, each.pulse))
    return [*made, *_average(form, answers, found, about)]


def _observation(about: About, name: str, code: Json, note: str) -> Json:
    return {
        "resourceType": "Observation",
        "identifier": [about.part(name)],
        "status": "final",
        "category": [{"coding": [{"system": _CATEGORY, "code": "vital-signs", "display": "Vital Signs"}]}],
        "code": code,
        "subject": about.subject,
        "performer": [about.subject],
        "note": [{"text": note}],
        "derivedFrom": [{"type": "QuestionnaireResponse", "identifier": about.identifier}],
    }


def _reading(each: Given, about: About, on: date) -> Json:
    return {
        **_observation(about, each.place.link_id, _BLOOD_PRESSURE, _where(each)),
        "effectiveDateTime": on.isoformat(),
        "component": [_component(_SYSTOLIC, each.systolic), _component(_DIASTOLIC, each.diastolic)],
    }


def _pulse(each: Given, about: About, on: date, pulse: int) -> Json:
    return {
        **_observation(about, f"{each.place.link_id}/pulse", _PULSE, _where(each)),
        "effectiveDateTime": on.isoformat(),
        "valueQuantity": {"value": pulse, "unit": "beats/min", "system": UCUM, "code": "/min"},
    }


def _where(each: Given) -> str:
    return f"Taken at home by the patient. {each.place.page.title}, {each.place.where}"


def _average(form: Form, answers: Answers, found: Sequence[Given], about: About) -> Iterator[Json]:
    average = blood_pressure.average(form, answers)
    if average is None or not average.valid:
        return
    taken = sorted(each.reading.on for each in found if each.reading is not None)
    counted = [on for on in taken if on != taken[0]]
    note = (
        f"Average of {average.readings} readings taken at home by the patient on {average.days} days. "
        "Those of the first day are left out (NICE NG136)"
    )
    yield {
        **_observation(about, "average", _AVERAGE, note),
        "effectivePeriod": {"start": counted[0].isoformat(), "end": counted[-1].isoformat()},
        "component": [
            _component(_AVERAGE_SYSTOLIC, average.systolic),
            _component(_AVERAGE_DIASTOLIC, average.diastolic),
        ],
    }


def _component(code: Json, value: int | None) -> Json:
    return {"code": code, "valueQuantity": {"value": value, "unit": "mmHg", "system": UCUM, "code": "mm[Hg]"}}


def _code(text: str, snomed: tuple[str, str], loinc: tuple[str, str]) -> Json:
    codings = ((SNOMED, snomed), (LOINC, loinc))
    return {
        "coding": [{"system": system, "code": code, "display": display} for system, (code, display) in codings],
        "text": text,
    }


_BLOOD_PRESSURE = _code(
    "Blood pressure", ("75367002", "Blood pressure"), ("85354-9", "Blood pressure panel with all children optional")
)
_SYSTOLIC = _code(
    "Systolic blood pressure", ("271649006", "Systolic blood pressure"), ("8480-6", "Systolic blood pressure")
)
_DIASTOLIC = _code(
    "Diastolic blood pressure", ("271650006", "Diastolic blood pressure"), ("8462-4", "Diastolic blood pressure")
)
_PULSE = _code("Pulse rate", ("78564009", "Pulse rate"), ("8867-4", "Heart rate"))
_AVERAGE = _code(
    "Average home blood pressure",
    ("75367002", "Blood pressure"),
    ("96607-7", "Blood pressure panel mean systolic and mean diastolic"),
)
_AVERAGE_SYSTOLIC = _code(
    "Average home systolic blood pressure",
    ("413606001", "Average home systolic blood pressure"),
    ("96608-5", "Systolic blood pressure mean"),
)
_AVERAGE_DIASTOLIC = _code(
    "Average home diastolic blood pressure",
    ("413605002", "Average home diastolic blood pressure"),
    ("96609-3", "Diastolic blood pressure mean"),
)
