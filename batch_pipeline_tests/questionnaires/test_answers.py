import json
from datetime import date
from decimal import Decimal

import pytest

from batch_pipeline.questionnaires.answers import as_json, computed, from_json, missing
from batch_pipeline.questionnaires.form import Answers
from batch_pipeline_tests.questionnaires.given import ask, choose, form, shipped

METRIC: Answers = {"units.system": ("Centimetres and kilograms",)}
IMPERIAL: Answers = {"units.system": ("Feet and inches, stones and pounds",)}


def test_answers_are_kept_as_json_to_the_last_digit() -> None:
    made = form(
        ask("b", "boolean"), ask("i", "integer"), ask("d", "decimal"), ask("on", "date"), ask("s", "string"),
        choose("some", "tea", "milk", repeats=True),
    )  # fmt: skip
    answers: Answers = {
        "b": False, "i": 0, "d": Decimal("72.50"), "on": date(2026, 11, 23), "s": "0", "some": ("tea", "milk"),
    }  # fmt: skip
    kept = json.loads(json.dumps(as_json(answers)))
    again = from_json(made, kept)
    assert again == answers
    assert [type(value) for value in again.values()] == [type(value) for value in answers.values()]
    assert str(again["d"]) == "72.50"


def test_answers_to_another_form_are_not_taken_for_this_ones() -> None:
    with pytest.raises(KeyError):
        from_json(shipped("bmi"), as_json({"smoking.status": ("8517006",)}))


@pytest.mark.parametrize(
    ("answers", "index"),
    [
        ({**METRIC, "metric.height": Decimal(170), "metric.weight": Decimal(70)}, "24.2"),
        ({**METRIC, "metric.height": Decimal(170)}, None),
        ({**IMPERIAL, "imperial.height.feet": 5, "imperial.height.inches": Decimal(11),
          "imperial.weight.stones": 12}, "23.4"),
        # 182.88 cm, 12 stone 7: 79.37866475 / 3.34450944 = 23.73
        ({**IMPERIAL, "imperial.height.feet": 6, "imperial.weight.stones": 12,
          "imperial.weight.pounds": Decimal(7)}, "23.7"),
        # Feet or stones that were mistyped, and are missing yet: inches alone are no height, pounds alone no weight.
        ({**IMPERIAL, "imperial.height.inches": Decimal(11), "imperial.weight.stones": 12}, None),
        ({**IMPERIAL, "imperial.height.feet": 5, "imperial.weight.pounds": Decimal(7)}, None),
        # Who changed to imperial isn't measured by what was written in centimetres.
        ({**IMPERIAL, "metric.height": Decimal(170), "metric.weight": Decimal(70)}, None),
        ({}, None),
    ],
)  # fmt: skip
def test_the_body_mass_index_is_worked_out(answers: Answers, index: str | None) -> None:
    assert computed(shipped("bmi"), answers) == ({} if index is None else {"bmi": Decimal(index)})


@pytest.mark.parametrize(
    ("questionnaire", "answers", "lacking"),
    [
        ("bmi", {}, ["units.system"]),
        ("bmi", METRIC, ["metric.height", "metric.weight"]),
        ("bmi", {**IMPERIAL, "imperial.height.feet": 6}, ["imperial.weight.stones"]),
        ("smoking_status", {"smoking.status": ("77176002",)}, []),
        ("ethnicity", {"group.name": ("White",)}, ["white.background"]),
        ("ethnicity", {"group.name": ("1024701000000100",)}, []),
        ("free_text", {}, ["reply.text"]),
        ("bp_7_day", {}, []),
    ],
)
def test_only_what_is_asked_of_somebody_is_missing(questionnaire: str, answers: Answers, lacking: list[str]) -> None:
    found = missing(shipped(questionnaire), answers)
    assert [question.link_id for _, question in found] == lacking
    assert all(question in page.questions for page, question in found)
