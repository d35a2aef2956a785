from collections.abc import Mapping
from datetime import date
from decimal import Decimal
from typing import Any

import pytest

from batch_pipeline.questionnaires.form import Answers, Value
from batch_pipeline_tests.questionnaires.given import MONDAY, ask, choose, form, group, shipped


def titles(questionnaire: str, answers: Answers) -> list[str]:
    return [page.link_id for page in shipped(questionnaire).to_show(answers)]


@pytest.mark.parametrize(
    ("questionnaire", "answers", "pages"),
    [
        ("smoking_status", {}, ["smoking"]),
        ("smoking_status", {"smoking.status": ("77176002",)}, ["smoking", "now"]),
        ("smoking_status", {"smoking.status": ("8517006",)}, ["smoking", "before"]),
        ("smoking_status", {"smoking.status": ("266919005",)}, ["smoking"]),
        ("bmi", {"units.system": ("Centimetres and kilograms",)}, ["units", "metric"]),
        ("bmi", {"units.system": ("Feet and inches, stones and pounds",)}, ["units", "imperial"]),
        ("ethnicity", {"group.name": ("Asian or Asian British",)}, ["group", "asian"]),
        ("ethnicity", {"group.name": ("1024701000000100",)}, ["group"]),
        ("free_text", {}, ["reply"]),
        ("bp_4_day", {}, ["day-1", "day-2", "day-3", "day-4"]),
    ],
)
def test_the_pages_that_follow_from_the_answers(questionnaire: str, answers: Answers, pages: list[str]) -> None:
    assert titles(questionnaire, answers) == pages


def test_who_chooses_otherwise_leaves_no_answer_behind_that_is_asked_no_more() -> None:
    answers: Answers = {"smoking.status": ("77176002",), "now.cigarettes": 20, "now.help": True}
    assert shipped("smoking_status").in_force(answers) == answers
    changed = {**answers, "smoking.status": ("8517006",)}
    assert shipped("smoking_status").in_force(changed) == {"smoking.status": ("8517006",)}


def test_what_depends_on_an_answer_that_is_asked_no_more_is_out_as_well() -> None:
    made = form(
        group("a", ask("a.1", "boolean")),
        group("b", ask("b.1", "boolean"), enableWhen=[{"question": "a.1", "operator": "=", "answerBoolean": True}]),
        group("c", ask("c.1", "string"), enableWhen=[{"question": "b.1", "operator": "=", "answerBoolean": True}]),
    )
    answers: Answers = {"a.1": True, "b.1": True, "c.1": "words"}
    assert made.in_force(answers) == answers
    assert made.in_force({**answers, "a.1": False}) == {"a.1": False}


CONDITIONS: list[tuple[str, dict[str, Any], Value, bool]] = [
    ("boolean", {"operator": "=", "answerBoolean": False}, False, True),
    ("boolean", {"operator": "=", "answerBoolean": False}, True, False),
    ("boolean", {"operator": "!=", "answerBoolean": False}, True, True),
    ("integer", {"operator": ">", "answerInteger": 5}, 5, False),
    ("integer", {"operator": ">", "answerInteger": 5}, 6, True),
    ("integer", {"operator": ">=", "answerInteger": 5}, 5, True),
    ("integer", {"operator": "<", "answerInteger": 5}, 5, False),
    ("integer", {"operator": "<", "answerInteger": 5}, 4, True),
    ("integer", {"operator": "<=", "answerInteger": 5}, 5, True),
    ("decimal", {"operator": "<=", "answerDecimal": 0.1}, Decimal("0.1"), True),
    ("date", {"operator": ">", "answerDate": "2026-11-23"}, date(2026, 11, 24), True),
    ("date", {"operator": ">", "answerDate": "2026-11-23"}, MONDAY, False),
    ("string", {"operator": "=", "answerString": "yes"}, "yes", True),
    ("string", {"operator": "=", "answerString": "yes"}, "yes, please", False),
    ("string", {"operator": "exists", "answerBoolean": True}, "", True),
    ("string", {"operator": "exists", "answerBoolean": False}, "words", False),
]


@pytest.mark.parametrize(("kind", "rule", "answer", "shown"), CONDITIONS)
def test_enable_when(kind: str, rule: Mapping[str, Any], answer: Value, shown: bool) -> None:
    made = form(group("a", ask("a.1", kind)), group("b", ask("b.1", "text"), enableWhen=[{"question": "a.1", **rule}]))
    assert len(made.to_show({"a.1": answer})) == 1 + shown
    without = rule["operator"] == "!=" or rule == {"operator": "exists", "answerBoolean": False}
    assert len(made.to_show({})) == 1 + without


@pytest.mark.parametrize(
    ("behaviour", "shown"), [("all", [False, False, False, True]), ("any", [False, True, True, True])]
)
def test_several_conditions_hold_all_or_any(behaviour: str, shown: list[bool]) -> None:
    rules = [{"question": name, "operator": "=", "answerBoolean": True} for name in ("a.1", "a.2")]
    made = form(
        group("a", ask("a.1", "boolean"), ask("a.2", "boolean")),
        group("b", ask("b.1", "text", enableWhen=rules, enableBehavior=behaviour), ask("b.2", "text")),
    )
    both = [(False, False), (False, True), (True, False), (True, True)]
    found = [len(made.to_show({"a.1": one, "a.2": two})[1].questions) == 2 for one, two in both]
    assert found == shown


def test_one_of_several_ticks_is_enough_for_a_condition() -> None:
    made = form(
        group("a", choose("a.1", "tea", "milk", "water", repeats=True)),
        group("b", ask("b.1", "text"), enableWhen=[{"question": "a.1", "operator": "=", "answerString": "milk"}]),
    )
    assert len(made.to_show({"a.1": ("tea", "milk")})) == 2
    assert len(made.to_show({"a.1": ("tea", "water")})) == 1


def test_what_stands_loose_at_the_top_is_a_page_between_the_groups() -> None:
    made = form(ask("one", "text"), ask("two", "text"), group("three", ask("three.1", "text")), ask("four", "text"))
    assert [(page.link_id, page.title, len(page.questions)) for page in made.pages] == [
        ("one", "", 2),
        ("three", "Page three", 1),
        ("four", "", 1),
    ]
    assert made.page("four").questions[0].label == "Question four"
    with pytest.raises(KeyError):
        made.page("two")


def test_an_answer_fills_its_fields_again() -> None:
    made = form(
        ask("when", "date"), ask("much", "decimal"), ask("yes", "boolean"), choose("one", "tea", "milk"),
        choose("some", "tea", "milk", repeats=True), ask("words", "text"),
    )  # fmt: skip
    when, much, yes, one, some, words = made.questions
    assert when.shown(MONDAY) == {"when:day": "23", "when:month": "11", "when:year": "2026"}
    assert much.shown(Decimal("72.50")) == {"much": "72.50"}
    assert yes.shown(False) == {"yes": "no"}
    assert one.shown(("milk",)) == {"one": "milk"}
    assert some.shown(("milk",)) == {"some:2": "yes"}
    assert words.shown("Hello") == {"words": "Hello"}
    assert words.shown(None) == {}
