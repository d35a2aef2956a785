"""Booking in a real browser, as wide as a phone: Debian's Chromium, with JavaScript and without."""

from collections.abc import Iterator
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page

from batch_pipeline_tests.gateway import test_browser
from batch_pipeline_tests.gateway.patients import served, token
from batch_pipeline_tests.gateway.test_booking import SLOTS, invite, take_in
from batch_pipeline_tests.gateway.test_browser import PHONE, RIGHT, chromium, give
from batch_pipeline_tests.ledger.given import open_ledger

__all__ = ["chromium"]

pytestmark = test_browser.pytestmark
TUESDAY, WEDNESDAY = "Tuesday 6 October 2026", "Wednesday 7 October 2026"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("ledger")
    ledger = open_ledger(folder)
    invite(ledger, 8)
    take_in(ledger, *SLOTS)
    with served(folder, folder) as address:
        yield address
    ledger.close()


def enter(chromium: Browser, site: str, line: int, **more: Any) -> Page:
    """A phone of its own, with the date of birth given."""
    page = chromium.new_context(viewport=PHONE, **more).new_page()  # type: ignore[arg-type]
    page.goto(f"{site}/{token(line)}")
    give(page, RIGHT)
    return page


def heading(page: Page, text: str) -> None:
    page.get_by_role("heading", name=text).wait_for()


def press(page: Page, button: str) -> None:
    page.get_by_role("button", name=button).click()
    page.wait_for_load_state()


def choose(page: Page, day: str, time: str) -> None:
    page.get_by_role("link", name=day).click()
    page.get_by_label(time).check()
    press(page, "Continue")


def test_two_patients_want_one_slot_and_one_gets_it(site: str, chromium: Browser) -> None:
    """One with JavaScript, one without."""
    quick, slow = enter(chromium, site, 2), enter(chromium, site, 3, java_script_enabled=False)
    for page in (quick, slow):
        choose(page, WEDNESDAY, "4:30pm")
        heading(page, "Check your appointment")
    press(quick, "Book this appointment")
    heading(quick, "Your appointment is booked")
    press(slow, "Book this appointment")
    assert slow.get_by_text("Sorry, that appointment has just been taken").first.is_visible()
    slow.get_by_role("link", name="See the other days").click()
    choose(slow, TUESDAY, "midday")
    press(slow, "Book this appointment")
    heading(slow, "Your appointment is booked")

    with quick.expect_download() as started:
        quick.get_by_role("link", name="Add it to your calendar").click()
    assert started.value.suggested_filename == "appointment.ics"
    quick.get_by_role("link", name="Change the appointment").click()
    choose(quick, TUESDAY, "midday")
    press(quick, "Change to this appointment")
    assert quick.get_by_text(TUESDAY).is_visible()
    quick.get_by_role("link", name="Cancel the appointment").click()
    press(quick, "Cancel the appointment")
    heading(quick, "Your appointment is cancelled")
    for page in (quick, slow):
        page.context.close()


def test_no_page_is_wider_than_the_phone_or_hard_to_use(site: str, chromium: Browser) -> None:
    """axe finds nothing of WCAG 2.2 AA on any of them."""
    page = enter(chromium, site, 4)

    def look(said: str) -> None:
        heading(page, said)
        assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
        rules = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]
        found = Axe().run(page, options={"runOnly": rules})
        assert found.violations_count == 0, found.generate_report()

    look("Choose a day for your appointment")
    page.get_by_role("link", name=TUESDAY).click()
    look(f"Choose a time on {TUESDAY}")
    press(page, "Continue")
    look("There is a problem")
    page.get_by_label("9:30am").check()
    press(page, "Continue")
    look("Check your appointment")
    press(page, "Book this appointment")
    look("Your appointment is booked")
    page.get_by_role("link", name="Change the appointment").click()
    look("Choose a day for your appointment")
    page.goto(f"{site}/{token(4)}/cancel")
    look("Do you want to cancel your appointment?")
    press(page, "Cancel the appointment")
    look("Your appointment is cancelled")
    page.get_by_role("link", name="I do not want an appointment").click()
    look("You do not want an appointment?")
    press(page, "I do not want an appointment")
    look("You have told us that you do not want an appointment")
    page.goto(f"{site}/{token(4)}/times/2026-12-24")
    look("There are no times left on Thursday 24 December 2026")
    page.context.close()


def test_the_whole_way_can_be_gone_by_the_keyboard(site: str, chromium: Browser) -> None:
    page = enter(chromium, site, 5)
    page.get_by_role("link", name=TUESDAY).focus()
    page.keyboard.press("Enter")
    heading(page, f"Choose a time on {TUESDAY}")
    page.get_by_role("radio").first.focus()
    page.keyboard.press("Space")
    page.keyboard.press("Enter")
    heading(page, "Check your appointment")
    page.get_by_role("button", name="Book this appointment").focus()
    page.keyboard.press("Enter")
    heading(page, "Your appointment is booked")
    page.context.close()
