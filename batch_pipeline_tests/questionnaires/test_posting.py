from collections.abc import Mapping
from datetime import date
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batch_pipeline.questionnaires.form import Answers, Form, Value
from batch_pipeline.questionnaires.posting import Posted, read_page
from batch_pipeline_tests.questionnaires.given import MONDAY, SHIPPED, ask, bounds, choose, form, group, shipped


def posted(made: Form, fields: Mapping[str, str], before: Answers | None = None) -> Posted:
    return read_page(made, made.pages[0], fields, before or {}, MONDAY)


UNIT = {"url": "http://hl7.org/fhir/StructureDefinition/questionnaire-unit", "valueCoding": {"display": "mmHg"}}


@pytest.mark.parametrize(
    ("kind", "written", "answer"),
    [
        ("integer", "120", 120),
        ("integer", "  120 ", 120),
        ("integer", "1\u200b20\ufeff", 120),
        ("integer", "-3", -3),
        ("integer", "0120", 120),
        ("decimal", "72.50", Decimal("72.50")),
        ("decimal", "72", Decimal(72)),
        ("integer", "\uff11\uff12\uff10", 120),
        ("integer", "١٩٠", 190),  # as keyboards for Arabic, Urdu and Hindi write them: a reading that can't wait
        ("integer", "۱۹۰", 190),
        ("decimal", "७२.५", Decimal("72.5")),
        ("string", "flat ١٩", "flat ١٩"),
        ("boolean", "yes", True),
        ("boolean", "no", False),
        ("string", "  two\r\n words ", "two words"),
        ("string", "علی\u200cرضا", "علی\u200cرضا"),
        ("text", " one\r\ntwo\x00\x07\rthree ", "one\ntwo\nthree"),
        ("text", "right\u202eleft", "rightleft"),
        ("text", "one\u2028two\x85three\vfour", "one\ntwo\nthree\nfour"),
        ("string", "one\u2028two\xa0three", "one two three"),
        ("text", "   ", None),
        ("integer", " ", None),
        ("boolean", "", None),
    ],
)
def test_what_is_written_is_tidied_and_taken(kind: str, written: str, answer: Value | None) -> None:
    found = posted(form(ask("a", kind)), {"a": written})
    assert found.errors == {}
    assert found.answers == ({} if answer is None else {"a": answer})
    assert all(type(value) is type(answer) for value in found.answers.values())


@pytest.mark.parametrize(
    ("kind", "written", "says"),
    [
        ("integer", "12O", "Question a must be a whole number, in figures"),
        ("integer", "120/80", "Question a must be a whole number, in figures"),
        ("integer", "72.5", "Question a must be a whole number, in figures"),
        ("integer", "\u00b2", "Question a must be a whole number, in figures"),
        ("integer", "1" * 10, "Question a must be a whole number, in figures"),
        ("integer", "1e2", "Question a must be a whole number, in figures"),
        ("decimal", "1,75", "Question a must be a number, in figures"),
        ("decimal", "NaN", "Question a must be a number, in figures"),
        ("decimal", "5.", "Question a must be a number, in figures"),
        ("boolean", "perhaps", "Choose an answer to “Question a”"),
        ("string", "x" * 256, "Question a must be 255 characters or fewer: you have written 256"),
        ("text", "x" * 5001, "Question a must be 5,000 characters or fewer: you have written 5,001"),
    ],
)
def test_what_cannot_be_taken_is_told_and_leaves_the_answer_as_it_was(kind: str, written: str, says: str) -> None:
    found = posted(form(ask("a", kind)), {"a": written}, {"a": True})
    assert found.errors == {"a": says}
    assert found.answers == {"a": True}


def test_a_unit_that_was_written_along_is_no_error() -> None:
    made = form(ask("a", "integer", extension=[UNIT]))
    assert posted(made, {"a": "120 mmHg"}).answers == {"a": 120}
    assert posted(made, {"a": "120MMHG"}).answers == {"a": 120}
    assert posted(made, {"a": "mmHg"}).errors == {"a": "Question a must be a whole number, in figures"}


@pytest.mark.parametrize(
    ("extension", "written", "says"),
    [
        (bounds(40, 300), "39", "Question a must be between 40 and 300"),
        (bounds(40, 300), "301", "Question a must be between 40 and 300"),
        (bounds(40, 300)[:1], "39", "Question a must be 40 or more"),
        (bounds(40, 300)[1:], "301", "Question a must be 300 or less"),
        (bounds(40, 300), "40", None),
        (bounds(40, 300), "300", None),
    ],
)
def test_hard_limits_refuse(extension: list[dict[str, Any]], written: str, says: str | None) -> None:
    found = posted(form(ask("a", "integer", extension=extension)), {"a": written})
    assert dict(found.errors) == ({} if says is None else {"a": says})
    assert ("a" in found.answers) == (says is None)


def test_an_unusual_answer_is_taken_and_asked_about_once() -> None:
    made = form(ask("a", "integer", extension=bounds(40, 300, (80, 220))))
    first = posted(made, {"a": "230"})
    assert (first.answers, first.errors) == ({"a": 230}, {})
    assert first.warnings == {"a": "Question a: 230 is unusual. Check that it is right"}
    assert posted(made, {"a": "230"}, first.answers).warnings == {}
    assert posted(made, {"a": "240"}, first.answers).warnings == {
        "a": "Question a: 240 is unusual. Check that it is right"
    }
    assert posted(made, {"a": "220"}, first.answers).warnings == {}


@pytest.mark.parametrize(
    ("day", "month", "year", "found"),
    [
        ("23", "11", "2026", MONDAY),
        (" 3", "02", "2026", date(2026, 2, 3)),
        ("29", "2", "2028", date(2028, 2, 29)),
        ("23", "November", "2026", MONDAY),
        ("23", "nov", "2026", MONDAY),
        ("۲۳", "११", "٢٠٢٦", MONDAY),
        ("29", "2", "2026", "Question a must be a real date, such as 27 3 2026"),
        ("31", "11", "2026", "Question a must be a real date, such as 27 3 2026"),
        ("23", "11", "26", "Question a must be a real date, such as 27 3 2026"),
        ("23", "xi", "2026", "Question a must be a real date, such as 27 3 2026"),
        ("0", "11", "2026", "Question a must be a real date, such as 27 3 2026"),
        ("23", "11", "", "Question a must include a year"),
        ("", "", "2026", "Question a must include a day and a month"),
        ("", "", "", None),
    ],
)
def test_a_date_has_three_fields(day: str, month: str, year: str, found: date | str | None) -> None:
    said = posted(form(ask("a", "date")), {"a:day": day, "a:month": month, "a:year": year})
    assert dict(said.errors) == ({"a:day": found} if isinstance(found, str) else {})
    assert said.answers.get("a") == (found if isinstance(found, date) else None)


def test_a_choice_is_one_of_those_offered() -> None:
    made = form(choose("a", "tea", "milk"))
    assert posted(made, {"a": "milk"}).answers == {"a": ("milk",)}
    assert posted(made, {"a": "gin"}).errors == {"a": "Choose an answer to “Question a”"}


def test_ticks_are_the_choices_that_were_ticked_and_none_is_an_answer_too() -> None:
    made = form(choose("a", "tea", "milk", "water", repeats=True))
    both = posted(made, {"a": "", "a:1": "yes", "a:3": "yes"})
    assert both.answers == {"a": ("tea", "water")}
    assert posted(made, {}, both.answers).answers == both.answers
    assert posted(made, {"a": ""}, both.answers).answers == {}


@pytest.mark.parametrize(
    ("kind", "says"),
    [("integer", "Fill in “Question a”"), ("boolean", "Choose an answer to “Question a”")],
)
@pytest.mark.parametrize("fields", [{}, {"a": " "}])
def test_a_required_answer_that_is_not_there_is_asked_for(kind: str, says: str, fields: Mapping[str, str]) -> None:
    assert posted(form(ask("a", kind, required=True)), fields).errors == {"a": says}


def test_errors_come_in_the_pages_order_and_what_is_right_is_taken_beside_them() -> None:
    made = form(ask("a", "integer"), ask("b", "integer"), ask("c", "integer", required=True), ask("d", "date"))
    found = posted(made, {"d:day": "1", "a": "x", "b": "7"})
    assert list(found.errors) == ["a", "c", "d:day"]
    assert found.answers == {"b": 7}


def test_what_is_not_on_the_page_is_not_taken() -> None:
    made = form(group("one", ask("a", "text")), group("two", ask("b", "text")))
    assert posted(made, {"a": "x", "b": "y", "c": "z"}).answers == {"a": "x"}


def test_a_page_may_be_sent_in_parts() -> None:
    made = form(ask("a", "text"), ask("b", "text"))
    first = posted(made, {"a": "x"})
    assert posted(made, {"b": "y"}, first.answers).answers == {"a": "x", "b": "y"}
    assert posted(made, {"a": "", "b": "y"}, first.answers).answers == {"b": "y"}


@given(st.sampled_from(SHIPPED), st.data())
def test_whatever_is_posted_is_read_without_a_fault_of_ours(name: str, data: st.DataObject) -> None:
    made = shipped(name)
    page = data.draw(st.sampled_from(made.pages))
    names = [field for question in page.questions for field in question.fields]
    fields = data.draw(st.dictionaries(st.sampled_from(names), st.text() | st.sampled_from(["120", "1e9", "yes", "٣"])))
    found = read_page(made, page, fields, {}, MONDAY)
    assert set(found.errors) | set(found.warnings) <= set(names)
    shown = {field: text for q in page.questions for field, text in q.shown(found.answers.get(q.link_id)).items()}
    again = read_page(made, page, shown, {}, MONDAY)
    assert dict(again.answers) == dict(found.answers), "what is shown again is read as the same"
