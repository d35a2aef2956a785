"""Patients' pages in a real browser, as wide as a phone: Debian's Chromium, with JavaScript and without."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, sync_playwright

from batch_pipeline.ledger import links
from batch_pipeline_tests.gateway.patients import PDF, sent_batch, served, token
from batch_pipeline_tests.ledger.given import BATCH, NOW, open_ledger

CHROMIUM = shutil.which("chromium")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium: apt-get install chromium"),
]
PHONE = {"width": 360, "height": 740}
WRONG, RIGHT = ("1", "2", "1980"), ("31", "1", "1980")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder, kept = tmp_path_factory.mktemp("ledger"), tmp_path_factory.mktemp("kept")
    ledger = open_ledger(folder)
    sent_batch(ledger, kept, count=8)
    with ledger.write() as connection:
        links.revoke(connection, BATCH, [9], "Dr Grey", NOW)
    with served(folder, kept) as address:
        yield address
    ledger.close()


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        yield playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])


def give(page: Page, born: tuple[str, str, str]) -> None:
    for label, part in zip(("Day", "Month", "Year"), born, strict=True):
        page.get_by_label(label, exact=True).fill(part)
    page.get_by_role("button", name="Continue").click()
    page.wait_for_load_state()


@pytest.mark.parametrize(("javascript", "line"), [(True, 2), (False, 3)], ids=["JavaScript", "no JavaScript"])
def test_wrong_wrong_right_and_the_file_is_there(site: str, chromium: Browser, javascript: bool, line: int) -> None:
    context = chromium.new_context(viewport=PHONE, java_script_enabled=javascript)  # type: ignore[arg-type]
    page = context.new_page()
    asked: set[str] = set()
    page.on("request", lambda request: asked.add("/".join(request.url.split("/")[:3])))
    page.goto(f"{site}/{token(line)}")
    for left in ("4 more times", "3 more times"):
        give(page, WRONG)
        assert page.get_by_text(f"You can try {left}").count() == 2
    give(page, RIGHT)
    assert page.url == f"{site}/{token(line)}"
    with page.expect_download() as started:
        page.get_by_role("link", name="Download the document").click()
    assert started.value.suggested_filename == "Flu leaflet.pdf"
    assert Path(started.value.path()).read_bytes() == PDF
    page.reload()
    assert page.get_by_role("heading", name="A document for you").is_visible()
    assert asked == {site}
    [cookie] = context.cookies()
    assert (cookie.get("httpOnly"), cookie.get("secure"), cookie.get("sameSite")) == (True, True, "Strict")
    context.close()


def test_no_page_is_wider_than_the_phone_or_hard_to_use(site: str, chromium: Browser) -> None:
    """axe finds nothing of WCAG 2.2 AA on any of them."""
    context = chromium.new_context(viewport=PHONE)  # type: ignore[arg-type]
    page = context.new_page()

    def look(heading: str) -> None:
        assert page.get_by_role("heading", name=heading).is_visible()
        assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
        rules = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]
        found = Axe().run(page, options={"runOnly": rules})
        assert found.violations_count == 0, found.generate_report()

    page.goto(f"{site}/{token(4)}")
    look("What is your date of birth?")
    give(page, ("31", "", "80"))
    look("There is a problem")
    give(page, RIGHT)
    look("A document for you")
    page.goto(f"{site}/{token(9)}")  # revoked
    look("This page is no longer available")
    page.goto(f"{site}/{token(5)}")
    for _ in range(5):
        give(page, WRONG)
    look("This link is locked")
    context.close()


def test_the_whole_way_can_be_gone_by_the_keyboard(site: str, chromium: Browser) -> None:
    context = chromium.new_context(viewport=PHONE)  # type: ignore[arg-type]
    page = context.new_page()
    page.goto(f"{site}/{token(6)}")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to main content"
    for part in RIGHT:
        page.keyboard.press("Tab")
        page.keyboard.type(part)
    page.keyboard.press("Enter")
    page.get_by_role("heading", name="A document for you").wait_for()
    context.close()
