"""A questionnaire in a real browser, as wide as a phone: filled in over simulated days, with JavaScript and without."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page

from batch_pipeline.ledger import responses
from batch_pipeline.ledger.engine import Ledger
from batch_pipeline_tests.gateway.patients import asking_batch, served, token
from batch_pipeline_tests.gateway.test_browser import CHROMIUM, PHONE, RIGHT, chromium, give
from batch_pipeline_tests.gateway.test_questionnaires import numbers
from batch_pipeline_tests.ledger.given import BATCH, open_ledger
from batch_pipeline_tests.questionnaires.given import ask, bounds, choose, group, resource

__all__ = ["chromium"]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium: apt-get install chromium"),
]
RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]


@dataclass
class Asked:
    """A questionnaire that patients were asked, and its pages."""

    folder: Path
    site: str
    ledger: Ledger

    def days_later(self, days: int) -> None:
        (self.folder / "days").write_text(str(days))

    def answers(self, line: int) -> tuple[dict[str, object], bool]:
        """What a patient has answered, and whether it was sent."""
        with self.ledger.read() as connection:
            [found] = [each for each in responses.of_batch(connection, BATCH) if each.line == line]
        return json.loads(found.answers or "{}"), found.completed_at is not None


def asked(folder: Path, questionnaire: str) -> Iterator[Asked]:
    ledger = open_ledger(folder)
    asking_batch(ledger, folder, questionnaire, 8)
    with served(folder, folder) as site:
        yield Asked(folder, site, ledger)
    ledger.close()


@pytest.fixture
def week(tmp_path: Path) -> Iterator[Asked]:
    yield from asked(tmp_path, "bp_7_day")


@pytest.fixture
def every_kind(tmp_path: Path) -> Iterator[Asked]:
    items = (
        ask("yes", "boolean", required=True),
        choose("one", "Apples", "Pears"),
        choose("some", "Plums", "Cherries", repeats=True),
        ask("on", "date"),
        ask("much", "integer", extension=bounds(1, 999, (10, 20))),
        ask("words", "text"),
        ask("line", "string"),
    )
    yield from asked(tmp_path, json.dumps(resource(group("a", *items))))


def fill(page: Page, fields: dict[str, str]) -> None:
    for name, value in fields.items():
        page.locator(f'[id="{name}"]').fill(value)


def save(page: Page, button: str = "Save and continue") -> None:
    page.get_by_role("button", name=button).click()
    page.wait_for_load_state()


def look(page: Page, heading: str) -> None:
    """No page is wider than the phone, and axe finds nothing of WCAG 2.2 AA on it."""
    assert page.get_by_role("heading", name=heading).first.is_visible(), page.inner_text("main")
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"], heading
    found = Axe().run(page, options={"runOnly": RULES})
    assert found.violations_count == 0, found.generate_report()


@pytest.mark.parametrize("javascript", [True, False], ids=["JavaScript", "no JavaScript"])
def test_a_week_of_readings_is_filled_in_and_sent(week: Asked, chromium: Browser, javascript: bool) -> None:
    context = chromium.new_context(viewport=PHONE, java_script_enabled=javascript)  # type: ignore[arg-type]
    page = context.new_page()
    for day in range(1, 8):
        week.days_later(day - 1)
        page.goto(f"{week.site}/{token(2)}")
        give(page, RIGHT)
        page.get_by_role("link", name=f"Day {day}", exact=True).click()
        fill(page, numbers(day, m1=(150, 95), m2=(146, 93)))
        save(page)
        assert page.get_by_text("2 of 4 readings").is_visible()
        page.get_by_role("link", name=f"Day {day}", exact=True).click()
        fill(page, numbers(day, e1=(142, 91), e2=(138, 89)))
        save(page)
        assert page.get_by_text("4 of 4 readings").count() == day
    page.get_by_role("link", name="Check and send your readings").click()
    assert page.get_by_text("144/92, of 24 readings after the first day.").is_visible()
    save(page, "Send my answers")
    assert page.get_by_role("heading", name="Your answers were sent").is_visible()
    page.reload()
    assert page.get_by_role("heading", name="Your answers were sent").is_visible()
    answers, sent = week.answers(2)
    assert (len(answers), sent) == (7 * (1 + 8), True)
    context.close()


def test_no_page_of_blood_pressure_is_wider_than_the_phone_or_hard_to_use(week: Asked, chromium: Browser) -> None:
    context = chromium.new_context(viewport=PHONE)  # type: ignore[arg-type]
    page = context.new_page()
    page.goto(f"{week.site}/{token(3)}")
    give(page, RIGHT)
    look(page, "Your blood pressure at home for 7 days")
    page.get_by_role("link", name="Start now").click()
    look(page, "Day 1")
    fill(page, numbers(1, m1=("x", 95), m2=(190, 110), e1=(85, 55)))
    save(page)
    look(page, "There is a problem")
    look(page, "Your blood pressure reading is very high")
    page.get_by_role("link", name="must be a whole number").click()
    assert page.evaluate("document.activeElement.id") == "day-1.morning.1.systolic"
    fill(page, numbers(1, m1=(230, 95)))
    save(page)
    look(page, "Check these answers")
    save(page)
    look(page, "About your readings")
    page.get_by_role("link", name="Continue").click()
    look(page, "Your blood pressure at home for 7 days")
    page.get_by_role("link", name="Check your readings so far").click()
    look(page, "Check your answers")
    save(page, "Send my answers")
    look(page, "Your answers were sent")
    context.close()


def test_every_kind_of_question_can_be_answered_on_a_phone(every_kind: Asked, chromium: Browser) -> None:
    context = chromium.new_context(viewport=PHONE)  # type: ignore[arg-type]
    page = context.new_page()
    page.goto(f"{every_kind.site}/{token(4)}")
    give(page, RIGHT)
    look(page, "Mine")
    page.get_by_role("link", name="Start now").click()
    look(page, "Page a")
    save(page)
    look(page, "There is a problem")
    page.get_by_label("Yes").check()
    page.get_by_label("Pears").check()
    page.get_by_label("Plums").check()
    page.get_by_label("Cherries").check()
    fill(page, {"on:day": "1", "on:month": "March", "on:year": "1990", "much": "12", "words": "a\nb", "line": "c"})
    save(page)
    look(page, "Check your answers")
    page.get_by_role("link", name="Change Page a, Question some").click()
    assert page.get_by_label("Plums").is_checked()
    page.get_by_label("Plums").uncheck()
    save(page)
    look(page, "Check your answers")
    save(page, "Send my answers")
    look(page, "Your answers were sent")
    assert every_kind.answers(4) == (
        {
            "yes": True,
            "one": ["Pears"],
            "some": ["Cherries"],
            "on": "1990-03-01",
            "much": 12,
            "words": "a\nb",
            "line": "c",
        },
        True,
    )
    context.close()


def test_two_tabs_of_one_patient_lose_nothing(week: Asked, chromium: Browser) -> None:
    context = chromium.new_context(viewport=PHONE)  # type: ignore[arg-type]
    one, other = context.new_page(), context.new_page()
    one.goto(f"{week.site}/{token(5)}")
    give(one, RIGHT)
    for tab in (one, other):
        tab.goto(f"{week.site}/{token(5)}/questions/1")
    fill(one, numbers(1, m1=(150, 95)))
    save(one)
    fill(other, numbers(1, e1=(142, 91)))
    save(other)
    answers, _ = week.answers(5)
    assert (answers["day-1.morning.1.systolic"], answers["day-1.evening.1.systolic"]) == (150, 142)
    context.close()
