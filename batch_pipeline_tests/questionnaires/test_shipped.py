"""What a new home brings: sound, complete, and with codes that are codes."""

import json
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest

from batch_pipeline.questionnaires import blood_pressure, fhir, responses
from batch_pipeline.questionnaires.answers import as_json, computed, from_json, missing
from batch_pipeline.questionnaires.form import Limits, Question, Value
from batch_pipeline.questionnaires.posting import read_page
from batch_pipeline.rules.policy import FALLBACK_POLICIES
from batch_pipeline_tests.questionnaires.given import MONDAY, SHIPPED, dated, resource_of, shipped


def dicts(value: Any) -> Iterator[dict[str, Any]]:
    if isinstance(value, dict):
        yield value
        value = list(value.values())
    if isinstance(value, list):
        for inner in value:
            yield from dicts(inner)


@pytest.mark.parametrize("name", SHIPPED)
def test_it_is_valid_fhir_and_a_form_can_be_made_of_it(name: str) -> None:
    resource = resource_of(name)
    assert fhir.faults(resource, "Questionnaire") == []
    assert resource["url"] == f"urn:batch-pipeline:questionnaire:{name}"
    assert shipped(name).questions


_PRODUCTS = ((0, 1, 2, 3, 4, 5, 6, 7, 8, 9), (1, 5, 7, 6, 2, 8, 3, 0, 9, 4))
_DIHEDRAL = (
    "0123456789 1234067895 2340178956 3401289567 4012395678 5987604321 6598710432 7659821043 8765932104 9876543210"
)


def verhoeff(code: str) -> bool:
    """SNOMED CT's check digit."""
    table, permuted, check = _DIHEDRAL.split(), _PRODUCTS[0], 0
    for digit in reversed(code):
        check = int(table[check][permuted[int(digit)]])
        permuted = tuple(_PRODUCTS[1][number] for number in permuted)
    return check == 0


def mod10(code: str) -> bool:
    """LOINC's check digit: Luhn's."""
    body, check = code.split("-")
    doubled = [int(digit) * (2 if place % 2 == 0 else 1) for place, digit in enumerate(reversed(body))]
    return (10 - sum(sum(divmod(number, 10)) for number in doubled) % 10) % 10 == int(check)


@pytest.mark.parametrize("name", SHIPPED)
def test_every_code_has_a_right_check_digit_and_a_name(name: str) -> None:
    for coding in dicts(resource_of(name)):
        if coding.get("system") == "http://snomed.info/sct":
            assert verhoeff(coding["code"]), coding
            assert coding["display"], coding
        if coding.get("system") == "http://loinc.org":
            assert mod10(coding["code"]), coding
            assert coding["display"], coding


def test_a_check_digit_can_be_wrong() -> None:
    assert verhoeff("75367002")
    assert not verhoeff("75376002")
    assert mod10("85354-9")
    assert not mod10("85345-9")


@pytest.mark.parametrize(("name", "days"), [("bp_4_day", 4), ("bp_7_day", 7)])
def test_blood_pressure_asks_for_two_readings_each_morning_and_evening_on_a_page_a_day(name: str, days: int) -> None:
    form = shipped(name)
    assert [page.title for page in form.pages] == [f"Day {day}" for day in range(1, days + 1)]
    for page in form.pages:
        places = [place for place in blood_pressure.places(form) if place.page == page]
        assert [place.where for place in places] == [
            f"{session}, {nth} reading" for session in ("Morning", "Evening") for nth in ("First", "Second")
        ]
        assert all(place.pulse is not None and not place.pulse.required for place in places)
        assert all(place.systolic.unit and place.systolic.unit.label == "mmHg" for place in places)


def test_the_blood_pressure_questionnaires_are_those_that_fall_back_after_three_hours() -> None:
    named = {name for policy in FALLBACK_POLICIES for name in policy.questionnaires or ()}
    assert named == {name for name in SHIPPED if blood_pressure.places(shipped(name))}


def test_a_reading_that_cannot_wait_is_within_what_is_usual() -> None:
    """Nobody at 180/120 is asked whether that is right before being told what to do."""
    for place in blood_pressure.places(shipped("bp_7_day")):
        assert place.systolic.usual.hold(180)
        assert place.diastolic.usual.hold(120)


def test_ethnicity_has_the_nineteen_groups_of_2021_and_a_way_not_to_say() -> None:
    form = shipped("ethnicity")
    first, *backgrounds = form.pages
    assert [choice.label for choice in first.questions[0].choices] == [
        *(page.title for page in backgrounds),
        "Prefer not to say",
    ]
    asked = [page.questions[0] for page in backgrounds]
    assert [len(question.choices) for question in asked] == [5, 4, 5, 3, 2]
    uncoded = [
        choice.label for question in asked for choice in question.choices if "code" not in choice.answer["valueCoding"]
    ]
    assert uncoded == ["Roma"]


PATHS = [
    (name, nth)
    for name in SHIPPED
    for nth in range(max(1, len(shipped(name).pages[0].questions[0].choices)))
]  # fmt: skip


@pytest.mark.parametrize(("name", "nth"), PATHS)
def test_every_path_through_its_pages_ends_with_a_valid_response(name: str, nth: int) -> None:
    """As a patient goes: a page, its answers, the next page that follows from them; each time the nth choice."""
    form, answers, seen = shipped(name), dict[str, Value](), list[str]()
    while following := [page for page in form.to_show(answers) if page.link_id not in seen]:
        page, on = following[0], MONDAY + timedelta(days=len(seen))
        assert page.questions
        found = read_page(form, page, {k: v for q in page.questions for k, v in typed(q, nth, on).items()}, answers, on)
        assert not found.errors
        assert not found.warnings
        answers = dict(found.answers)
        seen.append(page.link_id)
    assert missing(form, answers) == ()
    assert from_json(form, json.loads(json.dumps(as_json(answers)))) == answers
    about = responses.About("urn:example:answers", "1", "9990000018")
    made = responses.response(form, answers, about, status="completed", authored=datetime(2026, 11, 30, tzinfo=UTC))
    assert [item["linkId"] for item in made["item"]] == [*seen, *computed(form, answers)]


def typed(question: Question, nth: int, on: date) -> dict[str, str]:
    """Something right for each question, as it would be typed."""
    if question.kind == "date":
        return dated(question.link_id, on)
    if question.choices:
        return {question.link_id: question.choices[min(nth, len(question.choices) - 1)].value}
    if question.kind in ("integer", "decimal"):
        limits = question.usual if question.usual != Limits() else question.allowed
        return {question.link_id: str(int(limits.most or 0))}
    return {question.link_id: "yes"}
