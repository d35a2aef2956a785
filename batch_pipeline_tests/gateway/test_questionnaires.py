"""A questionnaire's life before patients' browsers: filled in over days, looked over, sent; and what can't wait."""

import json
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
import sqlalchemy as sa

from batch_pipeline.gateway.pages.visits import PageLimits
from batch_pipeline.ledger import links
from batch_pipeline.ledger.engine import Ledger
from batch_pipeline.ledger.tables import alerts, responses
from batch_pipeline_tests.gateway.patients import PDF, Browser, Desk, asking_batch, fields_of, token, words
from batch_pipeline_tests.ledger.given import BATCH, NOW
from batch_pipeline_tests.ledgers import on_sqlite_alone
from batch_pipeline_tests.questionnaires.given import ask, bounds, choose, group, resource

pytestmark = on_sqlite_alone
"""What the ledger keeps is the same on both: test_responses.py of the ledger sees to that."""

DAY = timedelta(days=1)
TODAY = NOW.date()
DAY_1 = "questions/1"


@pytest.fixture
def desk(ledger: Ledger, tmp_path: Path) -> Desk:
    asking_batch(ledger, tmp_path)
    return Desk(ledger, tmp_path)


def desk_with(ledger: Ledger, folder: Path, *items: dict[str, Any]) -> Desk:
    asking_batch(ledger, folder, json.dumps(resource(*items)))
    return Desk(ledger, folder)


def numbers(day: int, **given: tuple[object, object]) -> dict[str, str]:
    """``numbers(1, m1=(135, 85))``: the fields of that day's first morning reading."""
    found: dict[str, str] = {}
    for place, (systolic, diastolic) in given.items():
        link_id = f"day-{day}.{'morning' if place[0] == 'm' else 'evening'}.{place[1]}"
        found |= {f"{link_id}.systolic": str(systolic), f"{link_id}.diastolic": str(diastolic)}
    return found


WHOLE: dict[str, tuple[object, object]] = {"m1": (150, 95), "m2": (146, 93), "e1": (142, 91), "e2": (138, 89)}


def kept(desk: Desk, line: int = 2) -> Any:
    with desk.ledger.read() as connection:
        return connection.execute(sa.select(responses).where(responses.c.line == line)).one_or_none()


def answers(desk: Desk, line: int = 2) -> dict[str, Any]:
    row = kept(desk, line)
    return {} if row is None else json.loads(row.answers)


def raised(desk: Desk) -> list[tuple[int, str]]:
    with desk.ledger.read() as connection:
        rows = connection.execute(sa.select(alerts).order_by(alerts.c.id))
        return [(row.line, row.finding) for row in rows]


def place(answer: httpx.Response) -> str:
    assert answer.status_code == 303, words(answer)
    return answer.headers["location"].removeprefix(f"/{token()}").removeprefix("/")


def entered(desk: Desk) -> Browser:
    browser = desk.browser()
    browser.enter(token())
    return browser


# The life of a questionnaire


def test_a_week_of_readings_from_the_first_to_the_average_that_is_sent(desk: Desk) -> None:
    browser = desk.browser()
    first = browser.enter(token())
    assert "Your blood pressure at home for 7 days" in words(first)
    assert "Start now" in words(first)
    assert "You can come back to it until 10 October 2026" in words(first)
    for day in range(1, 8):
        browser = entered(desk)
        if day == 1:
            morning = browser.fill(token(), DAY_1, **numbers(day, m1=(150, 95), m2=(146, 93)))
            assert place(morning) == ""
            assert "1 October 2026: 2 of 4 readings" in words(browser.open(token()))
        assert place(browser.fill(token(), f"questions/{day}", **numbers(day, **WHOLE))) == ""
        if day < 7:
            desk.clock.wait(DAY)
    row = kept(desk)
    assert (row.first_at, row.completed_at) == (NOW + timedelta(hours=1), None)
    looked_over = browser.client.get(f"/{token()}/check")
    assert "144/92, of 24 readings after the first day." in words(looked_over)
    assert "Morning, First reading 150/95" in words(looked_over)
    assert place(browser.fill(token(), "check")) == ""
    assert kept(desk).completed_at == desk.clock.now
    sent = browser.open(token())
    assert "Your answers were sent On 7 October 2026, to Riverside &lt;Surgery&gt;" in words(sent)
    assert place(browser.client.get(f"/{token()}/{DAY_1}")) == ""
    assert place(browser.client.get(f"/{token()}/check")) == ""
    desk.clock.wait(DAY)
    assert browser.open(token()).status_code == 404  # 7 days after the first reading


def test_pages_follow_each_other_as_the_answers_lead(ledger: Ledger, tmp_path: Path) -> None:
    asking_batch(ledger, tmp_path, "smoking_status")
    desk = Desk(ledger, tmp_path)
    browser = entered(desk)
    nothing = browser.fill(token(), DAY_1)
    assert nothing.status_code == 422
    assert words(nothing).count("Choose an answer to “Do you smoke?”") == 2
    assert place(browser.fill(token(), DAY_1, **{"smoking.status": "77176002"})) == "questions/2"
    assert place(browser.fill(token(), "questions/2", **{"now.cigarettes": "10"})) == "check"
    assert place(browser.client.get(f"/{token()}/questions/3")) == ""  # not asked of who smokes
    assert "How many cigarettes do you smoke a day? 10" in words(browser.client.get(f"/{token()}/check"))
    changed = browser.fill(token(), "questions/1/change", **{"smoking.status": "266919005"})
    assert place(changed) == "check"
    assert "cigarettes" not in words(browser.client.get(f"/{token()}/check"))
    assert place(browser.fill(token(), "check")) == ""
    assert "Your answers were sent" in words(browser.open(token()))


def test_what_is_required_is_asked_for_before_it_is_sent(ledger: Ledger, tmp_path: Path) -> None:
    items = (group("a", ask("a1", "string", required=True)), group("b", ask("b1", "boolean")))
    desk = desk_with(ledger, tmp_path, *items)
    browser = entered(desk)
    assert place(browser.fill(token(), "questions/2", b1="yes")) == "check"
    refused = browser.fill(token(), "check")
    assert refused.status_code == 422
    assert "Page a: Question a1" in words(refused)
    assert f'href="/{token()}/questions/1/change"' in refused.text
    assert kept(desk).completed_at is None


def test_nothing_at_all_can_not_be_sent(desk: Desk) -> None:
    refused = entered(desk).fill(token(), "check")
    assert (refused.status_code, kept(desk)) == (422, None)
    browser = entered(desk)
    browser.fill(token(), DAY_1, **numbers(1, m1=(150, 95)))
    browser.fill(token(), DAY_1, **numbers(1, m1=("", "")))
    assert "Answer at least one question" in words(browser.fill(token(), "check"))


# Errors and warnings


def test_what_can_be_taken_is_kept_beside_what_can_not(desk: Desk) -> None:
    browser = entered(desk)
    page = browser.fill(token(), DAY_1, **numbers(1, m1=(150, 95), m2=("146x", 93)))
    assert page.status_code == 422
    assert words(page).count("Top number (systolic) must be a whole number, in figures") == 2
    assert 'value="146x"' in page.text
    assert answers(desk)["day-1.morning.1.systolic"] == 150
    assert answers(desk)["day-1.morning.2.diastolic"] == 93
    again = browser.post_form(f"/{token()}/{DAY_1}", fields_of(page), {})
    assert again.status_code == 422, "unchanged, it is as wrong as before"
    fields = fields_of(again) | {"day-1.morning.2.systolic": "146"}
    assert place(browser.post_form(f"/{token()}/{DAY_1}", fields, {})) == ""
    assert answers(desk)["day-1.morning.2.systolic"] == 146


def test_an_unusual_number_is_asked_about_once(ledger: Ledger, tmp_path: Path) -> None:
    desk = desk_with(ledger, tmp_path, group("a", ask("n", "integer", extension=bounds(1, 999, (10, 20)))))
    browser = entered(desk)
    page = browser.fill(token(), DAY_1, n="30")
    assert page.status_code == 200
    assert "Check these answers" in words(page)
    assert "Question n: 30 is unusual" in words(page)
    assert answers(desk) == {"n": 30}
    assert place(browser.post_form(f"/{token()}/{DAY_1}", fields_of(page), {})) == "check"


def test_a_day_saved_without_a_reading_keeps_no_date(desk: Desk) -> None:
    browser = entered(desk)
    page = browser.client.get(f"/{token()}/{DAY_1}")
    assert fields_of(page)["day-1.date:day"] == str(TODAY.day)
    assert place(browser.fill(token(), DAY_1)) == ""
    assert kept(desk) is None
    desk.clock.wait(DAY)
    later = entered(desk).client.get(f"/{token()}/{DAY_1}")
    assert fields_of(later)["day-1.date:day"] == str(TODAY.day + 1)


def test_every_kind_of_question_is_taken_and_shown_again(ledger: Ledger, tmp_path: Path) -> None:
    items = (
        ask("yes", "boolean"),
        choose("one", "A", "B"),
        choose("some", "C", "D", repeats=True),
        ask("on", "date"),
        ask("much", "decimal"),
        ask("words", "text"),
        ask("line", "string"),
    )
    desk = desk_with(ledger, tmp_path, group("a", *items))
    browser = entered(desk)
    typed = {
        "yes": "no", "one": "B", "some:2": "yes", "on:day": "1", "on:month": "March", "on:year": "1990",
        "much": "7.50", "words": "first <b>\r\nsecond", "line": '"quoted"',
    }  # fmt: skip
    assert place(browser.fill(token(), DAY_1, **typed)) == "check"
    given = {"yes": False, "one": ["B"], "some": ["D"], "on": "1990-03-01", "much": "7.50"}
    assert answers(desk) == {**given, "words": "first <b>\nsecond", "line": '"quoted"'}
    shown = fields_of(browser.client.get(f"/{token()}/{DAY_1}"))
    assert {name: shown[name] for name in typed} == {**typed, "on:month": "3", "words": "first <b>\nsecond"}
    version = kept(desk).version
    assert place(browser.fill(token(), DAY_1, words="first <b>\r\nsecond")) == "check"
    assert kept(desk).version == version
    looked_over = words(browser.client.get(f"/{token()}/check"))
    for said in (
        "Question yes No",
        "Question one B",
        "Question some D",
        "Question on 1 March 1990",
        "Question much 7.50",
    ):
        assert said in looked_over
    browser.fill(token(), DAY_1, **{"some:2": None, "line": ""})
    assert {"some", "line"}.isdisjoint(answers(desk))


def test_who_has_days_to_go_is_not_led_to_send_and_end_it(desk: Desk) -> None:
    """Answers that were sent change no more: the rest of the week would be lost."""
    browser = entered(desk)
    browser.fill(token(), DAY_1, **numbers(1, **WHOLE))
    assert "Send your readings only once, after the last of them. Check your readings so far" in words(
        browser.open(token())
    )
    assert "Send my answers without the missing readings" in words(browser.client.get(f"/{token()}/check"))
    for day in range(2, 8):
        desk.clock.wait(DAY)
        browser = entered(desk)
        browser.fill(token(), f"questions/{day}", **numbers(day, **WHOLE))
    assert "Check and send your readings" in words(browser.open(token()))
    assert "without the missing" not in words(browser.client.get(f"/{token()}/check"))


# Two tabs, a double click


def test_of_two_tabs_neither_takes_away_what_the_other_gave(desk: Desk) -> None:
    browser = entered(desk)
    address = f"/{token()}/{DAY_1}"
    one, other = (fields_of(browser.client.get(address)) for _ in range(2))
    browser.post_form(address, one, numbers(1, m1=(150, 95)))
    assert place(browser.post_form(address, other, numbers(1, e1=(142, 91)))) == ""
    assert answers(desk)["day-1.morning.1.systolic"] == 150
    assert answers(desk)["day-1.evening.1.systolic"] == 142
    third = fields_of(browser.client.get(address))
    browser.fill(token(), DAY_1, **numbers(1, m1=(160, 99)))
    browser.post_form(address, third, numbers(1, m1=("", "")))
    assert "day-1.morning.1.systolic" not in answers(desk), "what was taken out is out"
    assert answers(desk)["day-1.evening.1.systolic"] == 142


def test_a_double_click_changes_nothing_twice(desk: Desk) -> None:
    browser = entered(desk)
    fields = fields_of(browser.client.get(f"/{token()}/{DAY_1}"))
    for _ in range(2):
        assert place(browser.post_form(f"/{token()}/{DAY_1}", fields, numbers(1, **WHOLE))) == ""
    assert kept(desk).version == 1


def test_what_was_changed_elsewhere_is_looked_over_again_before_it_is_sent(desk: Desk) -> None:
    browser = entered(desk)
    browser.fill(token(), DAY_1, **numbers(1, m1=(150, 95)))
    seen = fields_of(browser.client.get(f"/{token()}/check"))
    browser.fill(token(), DAY_1, **numbers(1, m2=(146, 93)))
    stale = browser.post_form(f"/{token()}/check", seen, {})
    assert stale.status_code == 409
    assert "Your answers have changed" in words(stale)
    assert kept(desk).completed_at is None
    assert place(browser.post_form(f"/{token()}/check", fields_of(stale), {})) == ""
    at = kept(desk).completed_at
    desk.clock.wait(timedelta(minutes=1))
    assert place(browser.post_form(f"/{token()}/check", fields_of(stale), {})) == ""
    assert kept(desk).completed_at == at


def test_what_comes_after_it_was_sent_is_refused_in_words_and_advised_about(desk: Desk) -> None:
    browser = entered(desk)
    browser.fill(token(), DAY_1, **numbers(1, m1=(150, 95)))
    tab = fields_of(browser.client.get(f"/{token()}/{DAY_1}"))
    browser.fill(token(), "check")
    before = kept(desk)
    late = browser.post_form(f"/{token()}/{DAY_1}", tab, numbers(1, m2=(190, 125)))
    assert late.status_code == 409
    assert "What you just entered was not sent" in words(late)
    assert "Your blood pressure reading is very high" in words(late)
    assert kept(desk) == before
    assert raised(desk) == [(2, "very_high:day-1.morning.2")], "the practice is told that there was one"


# Readings that can't wait


def test_an_urgent_reading_is_advised_about_at_once_and_raised_once(desk: Desk) -> None:
    browser = entered(desk)
    answer = browser.fill(token(), DAY_1, **numbers(1, m1=(150, 95), m2=(185, 110)))
    assert place(answer) == "advice/1"
    advice = words(browser.client.get(answer.headers["location"]))
    assert "Your blood pressure reading is very high" in advice
    assert "Day 1, Morning, Second reading: 185/110" in advice
    assert "Call 999 or go to A&amp;E now" in advice
    assert "150" not in advice
    assert raised(desk) == [(2, "very_high:day-1.morning.2")]
    browser.fill(token(), DAY_1, **numbers(1, m2=(190, 110)))
    browser.fill(token(), DAY_1, **numbers(1, m2=(150, 90)))
    browser.fill(token(), DAY_1, **numbers(1, m2=(200, 110)))
    assert len(raised(desk)) == 1
    assert "very high" in words(browser.open(token()))
    browser.fill(token(), DAY_1, **numbers(1, e1=(150, 125)))
    assert raised(desk)[1:] == [(2, "very_high:day-1.evening.1")]


@pytest.mark.parametrize(
    ("typed", "urgent"),
    [
        ({"day-1.morning.1.systolic": "190"}, True),  # its other number isn't there yet
        (numbers(1, m1=(190, "x")), True),
        (numbers(1, m1=(190, 100)) | {"day-1.date:year": "2027"}, True),
        (numbers(1, m1=(85, 55), m2=(150, "")), False),
    ],
    ids=["half", "a slip beside it", "a wrong date", "low"],
)
def test_advice_stands_on_the_page_that_has_errors_too(desk: Desk, typed: dict[str, str], urgent: bool) -> None:
    page = entered(desk).fill(token(), DAY_1, **typed)
    assert page.status_code == 422
    assert ("reading is very high" in words(page), "reading is low" in words(page)) == (urgent, not urgent)
    assert words(page).index("Your blood pressure reading") < words(page).index("There is a problem")
    assert len(raised(desk)) == urgent


@pytest.mark.parametrize("hours", [0, 2], ids=["in a session", "after it"])
def test_a_reading_that_can_not_be_kept_now_is_advised_about_and_saved_again_as_it_was(desk: Desk, hours: int) -> None:
    """While an outbox is written nobody else can write on SQLite: nothing that was typed may be lost by that."""
    desk.limits = PageLimits(seconds=0.3)
    browser = entered(desk)
    fields = fields_of(browser.client.get(f"/{token()}/{DAY_1}"))
    desk.clock.wait(timedelta(hours=hours))
    with desk.ledger.write():
        page = browser.post_form(f"/{token()}/{DAY_1}", fields, numbers(1, m1=(190, 125), m2=("<b>", 85)))
    assert (page.status_code, page.headers["retry-after"]) == (503, "60")
    assert "Your answers may not be saved yet" in words(page)
    assert "Your blood pressure reading is very high" in words(page)
    assert "Day 1, Morning, First reading: 190/125" in words(page)
    assert "TimeoutError" in desk.said
    again = browser.post_form(f"/{token()}/{DAY_1}", fields_of(page), {})
    assert again.status_code == (200 if hours else 422)
    assert "must be a whole number" in words(again)
    assert answers(desk)["day-1.morning.1.systolic"] == 190
    assert answers(desk)["day-1.morning.2.diastolic"] == 85
    assert raised(desk) == [(2, "very_high:day-1.morning.1")]


# Sessions and links that end


def test_what_was_typed_before_the_session_ended_is_kept_and_asks_for_the_date_again(desk: Desk) -> None:
    browser = entered(desk)
    fields = fields_of(browser.client.get(f"/{token()}/{DAY_1}"))
    desk.clock.wait(timedelta(hours=10))
    later = desk.browser()
    page = later.post_form(f"/{token()}/{DAY_1}", fields, numbers(1, m1=(190, 95), m2=(150, "x"), e1=(230, 95)))
    assert page.status_code == 200
    assert "230 is unusual. Check that it is right" in words(page)
    assert "Your answers are saved" in words(page)
    assert "reading is very high" in words(page)
    assert "must be a whole number" in words(page)
    assert answers(desk)["day-1.morning.1.systolic"] == 190
    assert "set-cookie" not in page.headers
    assert "What is your date of birth?" in words(later.open(token()))
    assert place(later.client.get(f"/{token()}/check")) == ""


@pytest.mark.parametrize("form", ["", "9999999999.00"])
def test_a_form_that_we_did_not_show_is_kept_nowhere(desk: Desk, form: str) -> None:
    browser = entered(desk)
    fields = fields_of(browser.client.get(f"/{token()}/{DAY_1}")) | {"form": form}
    others = fields_of(desk.browser().open(token(3)))  # of the date of birth
    for each in (fields, fields | {"form": others["form"]}):
        assert_not_saved(browser.post_form(f"/{token()}/{DAY_1}", each, numbers(1, m1=(150, 95))))
    assert kept(desk) is None


def test_who_left_a_page_open_for_over_a_day_is_told_that_it_was_not_saved(desk: Desk) -> None:
    browser = entered(desk)
    fields = fields_of(browser.client.get(f"/{token()}/{DAY_1}"))
    desk.clock.wait(timedelta(hours=25))
    answer = browser.post_form(f"/{token()}/{DAY_1}", fields, numbers(1, m1=(150, 95)))
    assert_not_saved(answer)
    assert "blood pressure" not in answer.text, "whoever has the address alone isn't told what it is about"
    assert kept(desk) is None


def test_who_posts_more_than_is_taken_is_told_so_in_words(desk: Desk) -> None:
    desk.limits = PageLimits(answers_bytes=400)
    browser = entered(desk)
    answer = browser.fill(token(), DAY_1, **{"day-1.morning.1.systolic": "1" * 400})
    assert_not_saved(answer, 413)
    assert answer.headers["connection"] == "close"


def assert_not_saved(answer: httpx.Response, status: int = 403) -> None:
    assert answer.status_code == status
    assert "What you entered was not saved" in words(answer)
    assert f'href="/{token()}"' in answer.text


def test_a_page_in_use_keeps_the_session(desk: Desk) -> None:
    browser = entered(desk)
    desk.clock.wait(timedelta(minutes=20))
    renewed = browser.fill(token(), DAY_1, **numbers(1, m1=(150, 95)))
    desk.clock.wait(timedelta(minutes=20))
    later = desk.browser()
    later.client.cookies.set("__Host-link", renewed.cookies["__Host-link"])
    assert "1 of 4 readings" in words(later.open(token()))


@pytest.mark.parametrize("why", ["revoked", "expired", "locked"])
def test_late_answers_are_refused(desk: Desk, why: str) -> None:
    browser = entered(desk)
    browser.fill(token(), DAY_1, **numbers(1, m1=(150, 95)))
    desk.clock.wait(7 * DAY - timedelta(hours=2))
    browser = entered(desk)
    fields = fields_of(browser.client.get(f"/{token()}/{DAY_1}"))
    before = kept(desk)
    match why:
        case "revoked":
            with desk.ledger.write() as connection:
                links.revoke(connection, BATCH, [], "Dr Grey", desk.clock.now)
        case "expired":
            desk.clock.wait(timedelta(hours=2))
        case _:
            for _ in range(5):
                desk.browser().type_in(token(), date(1981, 1, 31))
    late = browser.post_form(f"/{token()}/{DAY_1}", fields, numbers(1, m2=(190, 125)))
    assert late.status_code == (403 if why == "locked" else 404)
    assert kept(desk) == before
    assert raised(desk) == []


def test_one_patient_s_answers_are_not_another_s(desk: Desk) -> None:
    browser = entered(desk)
    browser.fill(token(), DAY_1, **numbers(1, m1=(150, 95)))
    assert browser.client.get(f"/{token(3)}/{DAY_1}").headers["location"] == f"/{token(3)}"
    browser.enter(token(3))
    assert "150" not in browser.client.get(f"/{token(3)}/{DAY_1}").text


@pytest.mark.parametrize(
    "where", ["questions", "questions/0", "questions/8", "questions/x", "questions/99999", "questions/٣", "advice/9"]
)
def test_a_page_that_is_not_there_leads_to_the_start(desk: Desk, where: str) -> None:
    assert place(entered(desk).client.get(f"/{token()}/{where}")) == ""


def test_what_a_link_does_not_open_is_not_there(desk: Desk) -> None:
    browser = entered(desk)
    assert browser.client.get(f"/{token()}/attachment").status_code == 404
    assert browser.client.get(f"/{token()}/elsewhere").status_code == 404
    assert browser.client.request("PUT", f"/{token()}/check").status_code == 405
    assert browser.client.request("POST", f"/{token()}/advice/1").status_code == 405


def test_a_file_that_comes_with_a_questionnaire_is_there_before_and_after(ledger: Ledger, tmp_path: Path) -> None:
    asking_batch(ledger, tmp_path, "free_text", attached=True)
    desk = Desk(ledger, tmp_path)
    browser = entered(desk)
    assert "There is a document with this message: Flu leaflet.pdf (PDF)" in words(browser.open(token()))
    assert browser.download(token()).content == PDF
    browser.fill(token(), DAY_1, **{"reply.text": "Thank you"})
    browser.fill(token(), "check")
    assert "Flu leaflet.pdf" in words(browser.open(token()))
    assert browser.download(token()).content == PDF


def test_nothing_of_an_answer_is_logged(desk: Desk) -> None:
    browser = entered(desk)
    browser.fill(token(), DAY_1, **numbers(1, m1=(193, 127), m2=("abcdef", 1)))
    browser.fill(token(), "check")
    for secret in (token(), "193", "127", "abcdef", "day-1", BATCH):
        assert secret not in desk.said
