"""A post folded over the answers as they are: what was changed counts, what was left as shown takes nothing away."""

from collections.abc import Mapping
from datetime import timedelta

import pytest

from batch_pipeline.questionnaires import filling
from batch_pipeline.questionnaires.form import Answers, Form, Value
from batch_pipeline_tests.questionnaires.given import MONDAY, ask, choose, dated, form, group, readings, shipped

TWO = form(group("page", ask("a", "string"), ask("b", "string")))
BP = shipped("bp_4_day")


def fill(
    asked: Form, shown: Mapping[str, Value], fields: Mapping[str, str], now: Mapping[str, Value], page: int = 1
) -> filling.Filled:
    """``shown``: the answers that the page was made with; ``now``: those that there are when it is posted."""
    before = filling.shown_page(asked, page, shown)
    after = filling.shown_page(asked, page, now)
    assert before is not None
    assert after is not None
    return filling.fill(asked, after, fields, filling.stamp(before, shown), now, MONDAY)


@pytest.mark.parametrize(
    ("shown", "posted", "now", "comes_to"),
    [
        ({}, {"a": "1", "b": ""}, {}, {"a": "1"}),
        ({}, {"a": "1", "b": ""}, {"b": "2"}, {"a": "1", "b": "2"}),  # the other tab's answer stays
        ({"b": "2"}, {"a": "1", "b": "2"}, {"b": "3"}, {"a": "1", "b": "3"}),  # and its correction
        ({"b": "2"}, {"a": "1", "b": "2"}, {}, {"a": "1"}),  # and what it took out
        ({"a": "1"}, {"a": "", "b": ""}, {"a": "1", "b": "2"}, {"b": "2"}),  # what is taken out here is out
        ({"a": "1"}, {"a": "", "b": ""}, {"a": "5"}, {}),
        ({}, {"a": "1", "b": ""}, {"a": "5"}, {"a": "1"}),  # both changed it: the later one
        ({"a": "1"}, {"a": "1", "b": ""}, {"a": "1"}, {"a": "1"}),
    ],
)
def test_two_tabs(shown: Answers, posted: dict[str, str], now: Answers, comes_to: Answers) -> None:
    found = fill(TWO, shown, posted, now)
    assert found.answers == comes_to
    again = fill(TWO, shown, posted, found.answers)
    assert again.answers == comes_to, "sent twice it comes to the same"


KINDS = form(
    group(
        "page",
        ask("yes", "boolean"),
        choose("one", "A", "B"),
        choose("some", "C", "D", repeats=True),
        ask("on", "date"),
        ask("words", "text"),
    )
)
EVERY: Answers = {"yes": True, "one": ("A",), "some": ("C", "D"), "on": MONDAY, "words": "a\nb"}


def test_what_a_browser_posts_of_an_unchanged_page_changes_nothing() -> None:
    fields = {"yes": "yes", "one": "A", "some": "", "some:1": "yes", "some:2": "yes", "words": "a\r\nb"}
    now: Answers = {"yes": False, "one": ("B",), "some": ("D",), "on": MONDAY - timedelta(days=1), "words": "c"}
    assert fill(KINDS, EVERY, fields | dated("on", MONDAY), now).answers == now
    unticked = {name: value for name, value in fields.items() if name != "some:1"}
    assert fill(KINDS, EVERY, unticked | dated("on", MONDAY), now).answers == {**now, "some": ("D",)}
    assert fill(KINDS, EVERY, fields | dated("on", MONDAY) | {"on:day": "1"}, now).answers["on"].day == 1  # type: ignore[union-attr]


def test_a_wrong_entry_that_is_sent_again_is_as_wrong_as_before() -> None:
    numbers = form(group("page", ask("n", "integer")))
    for _ in range(2):
        assert fill(numbers, {}, {"n": "x"}, {}).errors == {"n": "Question n must be a whole number, in figures"}


def test_a_page_that_asks_otherwise_by_now_is_taken_as_it_was_posted() -> None:
    asked = form(
        group("first", ask("a", "boolean")),
        group(
            "second",
            ask("b", "string"),
            ask("c", "string", enableWhen=[{"question": "a", "operator": "=", "answerBoolean": True}]),
        ),
    )
    found = fill(asked, {"a": True}, {"b": "1", "c": "2"}, {"a": False, "b": "0"}, page=2)
    assert found.answers == {"a": False, "b": "1"}


@pytest.mark.parametrize("stamp", ["", "x", "....", "a" * 10_000])
def test_a_stamp_that_is_none_of_ours_is_no_stamp(stamp: str) -> None:
    page = TWO.pages[0]
    assert filling.fill(TWO, page, {"a": "1", "b": ""}, stamp, {"b": "2"}, MONDAY).answers == {"a": "1"}


def test_pages_have_numbers_that_stay() -> None:
    smoking = shipped("smoking_status")
    gave_up: Answers = {"smoking.status": ("8517006",)}
    assert filling.shown_page(smoking, 2, gave_up) is None
    third = filling.shown_page(smoking, 3, gave_up)
    assert third is not None
    assert filling.number_of(smoking, third) == 3
    assert filling.onward(smoking, smoking.pages[0], gave_up) == third
    assert filling.onward(smoking, third, gave_up) is None
    assert [filling.shown_page(smoking, n, {}) for n in (0, 4, -1)] == [None, None, None]


def test_findings_are_of_what_can_not_wait_alone_and_tell_no_value() -> None:
    posted = readings(BP.pages[0], MONDAY, m1=(181, 95), m2=(85, 55), e1=(150, 121))
    found = fill(BP, {}, posted, {})
    assert found.findings == {"very_high:day-1.morning.1", "very_high:day-1.evening.1"}
    assert [each.band.code for each in found.noticed] == ["very_high", "low", "very_high"]
    assert found.noticed[0].words == "Day 1, Morning, First reading: 181/95"
    other = filling.shown_page(BP, 2, found.answers)
    assert other is not None
    assert filling.fill(BP, other, {}, "", found.answers, MONDAY).noticed == ()


def test_a_date_without_a_reading_is_forgotten() -> None:
    assert fill(BP, {}, readings(BP.pages[0], MONDAY), {}).answers == {}
    both = fill(BP, {}, readings(BP.pages[0], MONDAY, m1=(150, 95)), {}).answers
    assert both["day-1.date"] == MONDAY
    taken_out = readings(BP.pages[0], MONDAY, m1=("", ""))
    assert fill(BP, both, taken_out, both).answers == {}


@pytest.mark.parametrize(
    ("answers", "lacking"),
    [
        ({}, ["Page page: Question a"]),
        ({"b": "1"}, ["Page page: Question a"]),
        ({"a": "1"}, []),
    ],
)
def test_what_is_required_keeps_answers_from_being_sent(answers: Answers, lacking: list[str]) -> None:
    asked = form(group("page", ask("a", "string", required=True), ask("b", "string")))
    assert [says for _, says in filling.why_not_complete(asked, answers, MONDAY)] == lacking


@pytest.mark.parametrize(
    ("numbers", "lacking"),
    [
        ({"m1": (150, 95)}, None),
        ({"m1": (150, "")}, "Day 1: Morning, First reading: Bottom number (diastolic): enter this number as well"),
        (
            {"m1": (95, 150)},
            "Day 1: Morning, First reading: Top number (systolic) must be higher than the other number",
        ),
    ],
)
def test_a_reading_that_is_not_whole_keeps_answers_from_being_sent(
    numbers: dict[str, tuple[int | str, int | str]], lacking: str | None
) -> None:
    kept = fill(BP, {}, readings(BP.pages[0], MONDAY, **numbers), {}).answers
    found = filling.why_not_complete(BP, kept, MONDAY)
    assert [says.startswith(lacking or "") for _, says in found] == ([] if lacking is None else [True])
    if lacking is None:  # they may have been given some days ago
        assert filling.why_not_complete(BP, kept, MONDAY + timedelta(days=30)) == ()
    undated = {name: value for name, value in kept.items() if name != "day-1.date"}
    assert "Day 1: Date of these readings" in filling.why_not_complete(BP, undated, MONDAY)[-1][1]


def test_no_answer_at_all_can_not_be_sent() -> None:
    [(page, says)] = filling.why_not_complete(BP, {}, MONDAY)
    assert (page.link_id, says) == ("day-1", "Answer at least one question")
