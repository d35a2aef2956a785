from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from batch_pipeline.questionnaires import fhir, responses
from batch_pipeline.questionnaires.fhir import NotFhir
from batch_pipeline.questionnaires.form import Answers
from batch_pipeline.questionnaires.posting import read_page
from batch_pipeline_tests.questionnaires.given import MONDAY, ask, choose, form, group, readings, shipped

ABOUT = responses.About("urn:example:answers", "bp-2026/17", "9990000018")
NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)
BP = shipped("bp_4_day")


def response(made: Any, answers: Answers, **keys: Any) -> dict[str, Any]:
    return responses.response(made, answers, ABOUT, **{"status": "completed", "authored": NOON, **keys})


def course(days: int = 4) -> Answers:
    answers: Answers = {}
    for n, page in enumerate(BP.pages[:days]):
        on = MONDAY + timedelta(days=n)
        fields = readings(page, on, m1=(150, 95), m2=(146, 93), e1=(142, 91), e2=(138, 89))
        answers = read_page(BP, page, fields, answers, on).answers
    return answers


def test_every_kind_of_answer_has_its_place() -> None:
    made = form(
        group(
            "page",
            {"linkId": "section", "type": "group", "item": [ask("b", "boolean"), ask("i", "integer")]},
            ask("d", "decimal"), ask("whole", "decimal"), ask("on", "date"), ask("s", "string"), ask("t", "text"),
            choose("some", "tea", "milk", "water", repeats=True), ask("empty", "text"),
        ),
        ask("loose", "text"),
    )  # fmt: skip
    answers: Answers = {
        "b": False, "i": 0, "d": Decimal("72.50"), "whole": Decimal(70), "on": date(2026, 11, 23), "s": "x", "t": "y\nz",
        "some": ("tea", "water"), "loose": "at the top",
    }  # fmt: skip
    made_response = response(made, answers)
    page, loose = made_response["item"]
    section, *questions = page["item"]
    assert page["linkId"] == "page"
    assert page["text"] == "Page page"
    assert [item["answer"] for item in section["item"]] == [[{"valueBoolean": False}], [{"valueInteger": 0}]]
    assert "text" not in section
    assert [item["answer"] for item in questions] == [
        [{"valueDecimal": 72.5}],
        [{"valueDecimal": 70}],
        [{"valueDate": "2026-11-23"}],
        [{"valueString": "x"}],
        [{"valueString": "y\nz"}],
        [{"valueString": "tea"}, {"valueString": "water"}],
    ]
    assert loose == {"linkId": "loose", "text": "Question loose", "answer": [{"valueString": "at the top"}]}


def test_a_response_says_whose_it_is_and_of_which_questionnaire() -> None:
    made = response(shipped("smoking_status"), {"smoking.status": ("8517006",)}, status="in-progress")
    subject = {"type": "Patient", "identifier": {"system": "https://fhir.nhs.uk/Id/nhs-number", "value": "9990000018"}}
    assert made["questionnaire"] == "urn:batch-pipeline:questionnaire:smoking_status|1"
    assert made["identifier"] == {"system": "urn:example:answers", "value": "bp-2026/17"}
    assert (made["status"], made["authored"]) == ("in-progress", "2026-11-23T12:00:00+00:00")
    assert made["subject"] == made["source"] == subject
    [[answer]] = [item["answer"] for page in made["item"] for item in page["item"]]
    assert answer["valueCoding"] == {"system": "http://snomed.info/sct", "code": "8517006", "display": "Ex-smoker"}


def test_what_is_asked_no_more_is_in_no_response_and_what_is_worked_out_is() -> None:
    answers: Answers = {
        "units.system": ("Centimetres and kilograms",), "metric.height": Decimal(170), "metric.weight": Decimal(70),
        "imperial.height.feet": 5,
    }  # fmt: skip
    made = response(shipped("bmi"), answers)
    assert [item["linkId"] for item in made["item"]] == ["units", "metric", "bmi"]
    assert made["item"][-1]["answer"] == [{"valueDecimal": 24.2}]


def test_an_empty_response_is_valid_too() -> None:
    assert "item" not in response(BP, {}, status="in-progress")


def test_a_time_without_a_zone_is_no_time() -> None:
    with pytest.raises(ValueError, match="time zone"):
        response(BP, {}, authored=datetime(2026, 11, 23))  # noqa: DTZ001


@pytest.mark.parametrize("questionnaire", ["bmi", "bp_4_day", "bp_7_day", "ethnicity", "free_text", "smoking_status"])
def test_the_items_of_a_response_are_the_questionnaires(questionnaire: str) -> None:
    """Every question answered at once, on whatever page: linkIds nest as the questionnaire's do."""
    made = shipped(questionnaire)
    samples = {"boolean": True, "date": MONDAY, "decimal": Decimal("70.5"), "integer": 100, "string": "x", "text": "x"}
    answers = {
        q.link_id: (q.choices[0].value,) if q.kind == "choice" else samples[q.kind]
        for q in made.questions
    }  # fmt: skip
    found = response(made, answers)
    asked = {page.link_id: {q.link_id for q in page.questions} for page in made.to_show(answers)}
    for item in found["item"]:
        if item["linkId"] in asked:
            assert set(_leaves(item)) == asked[item["linkId"]]


def _leaves(item: dict[str, Any]) -> list[str]:
    if "item" not in item:
        return [item["linkId"]]
    return [leaf for inner in item["item"] for leaf in _leaves(inner)]


def test_each_whole_reading_is_an_observation_and_the_average_one_more() -> None:
    found = responses.observations(BP, course(), ABOUT)
    assert len(found) == 17
    first, average = found[0], found[-1]
    assert first["identifier"] == [{"system": "urn:example:answers", "value": "bp-2026/17/day-1.morning.1"}]
    assert first["effectiveDateTime"] == "2026-11-23"
    assert [coding["code"] for coding in first["code"]["coding"]] == ["75367002", "85354-9"]
    assert [
        (part["code"]["coding"][0]["code"], part["valueQuantity"]["value"], part["valueQuantity"]["code"])
        for part in first["component"]
    ] == [("271649006", 150, "mm[Hg]"), ("271650006", 95, "mm[Hg]")]
    assert first["note"] == [{"text": "Taken at home by the patient. Day 1, Morning, First reading"}]
    assert first["derivedFrom"][0]["identifier"] == ABOUT.identifier
    assert average["effectivePeriod"] == {"start": "2026-11-24", "end": "2026-11-26"}
    assert [part["valueQuantity"]["value"] for part in average["component"]] == [144, 92]
    assert "first day are left out" in average["note"][0]["text"]


def test_identifiers_are_all_different_and_the_same_each_time() -> None:
    answers = {**course(), "day-1.morning.1.pulse": 70}
    found = [[each["identifier"][0]["value"] for each in responses.observations(BP, answers, ABOUT)] for _ in range(2)]
    assert found[0] == found[1]
    assert len(set(found[0])) == 18
    assert "bp-2026/17/day-1.morning.1/pulse" in found[0]


def test_too_few_readings_make_no_average_and_half_a_reading_no_observation() -> None:
    answers = {**course(3), "day-4.morning.1.systolic": 150}
    found = responses.observations(BP, answers, ABOUT)
    assert len(found) == 12
    assert not any("effectivePeriod" in each for each in found)


def test_another_questionnaire_makes_no_observation() -> None:
    assert responses.observations(shipped("smoking_status"), {"smoking.status": ("8517006",)}, ABOUT) == []


def test_what_is_not_valid_is_given_to_nobody_and_its_error_holds_no_value() -> None:
    made = {"resourceType": "Observation", "status": "final", "code": {"text": "x"}, "valueInteger": "9990000018"}
    assert len(fhir.faults(made, "Observation")) == 1
    with pytest.raises(NotFhir) as refused:
        fhir.checked(made, "Observation")
    assert "valueInteger" in str(refused.value)
    assert "9990000018" not in str(refused.value)


def test_nothing_is_given_out_unchecked() -> None:
    nobody = responses.About("urn:example:answers", "", "9990000018")  # FHIR knows no empty value
    with pytest.raises(NotFhir, match=r"QuestionnaireResponse .*identifier\.value"):
        responses.response(BP, {}, nobody, status="in-progress", authored=NOON)
    with pytest.raises(NotFhir, match=r"Observation .*identifier\.value"):
        responses.observations(BP, course(1), nobody)


def test_whose_answers_they_are_stays_out_of_tracebacks() -> None:
    assert "9990000018" not in repr(ABOUT)
