"""What patients see: the date of birth, what was sent, and what is said when there is nothing to see."""

import re
from datetime import date, timedelta
from pathlib import Path

import httpx
import pytest
import sqlalchemy as sa
from sqlalchemy.exc import OperationalError

from batch_pipeline.gateway.pages.views import Views, load_css
from batch_pipeline.gateway.pages.visits import PageLimits
from batch_pipeline.ledger import controls, links
from batch_pipeline.ledger.engine import Ledger
from batch_pipeline.ledger.tables import links as table
from batch_pipeline.rules import links as rules
from batch_pipeline_tests.gateway.patients import PDF, Desk, hidden, sent_batch, token, words
from batch_pipeline_tests.ledger.given import BATCH
from batch_pipeline_tests.ledger.test_links import BORN, KEYS, WRONG, found, rows
from batch_pipeline_tests.ledgers import on_sqlite_alone

pytestmark = on_sqlite_alone
"""What the ledger answers is the same on both: test_links.py of the ledger sees to that."""

NEVER_MADE = "0" * 22
DAY = timedelta(days=1)


@pytest.fixture
def desk(ledger: Ledger, tmp_path: Path) -> Desk:
    sent_batch(ledger, tmp_path)
    return Desk(ledger, tmp_path)


def revoke(desk: Desk, *lines: int) -> None:
    with desk.ledger.write() as connection:
        links.revoke(connection, BATCH, lines, "Dr Grey", desk.clock.now)


# The way to what was sent


def test_the_date_of_birth_leads_to_the_attachment(desk: Desk) -> None:
    browser = desk.browser()
    asked = browser.open(token())
    assert asked.status_code == 200
    assert "What is your date of birth?" in words(asked)
    assert "Riverside &lt;Surgery&gt;" in asked.text

    entered = browser.type_in(token())
    assert (entered.status_code, entered.headers["location"]) == (303, f"/{token()}")
    shown = browser.open(token())
    assert "Flu leaflet.pdf" in words(shown)
    assert "(PDF, 1 KB)" in words(shown)
    assert "until 29 October 2026" in words(shown)

    file = browser.download(token())
    assert (file.status_code, file.content) == (200, PDF)
    assert file.headers["content-type"] == "application/pdf"
    assert file.headers["content-disposition"] == "attachment; filename*=utf-8''Flu%20leaflet.pdf"
    assert "sandbox" in file.headers["content-security-policy"]
    link = found(desk.ledger)
    assert link.opened_at == link.downloaded_at == desk.clock.now


def test_a_month_may_have_its_name(desk: Desk) -> None:
    assert desk.browser().type_in(token(), ("31", "January", "1980")).status_code == 303


def test_without_the_date_of_birth_there_is_no_attachment(desk: Desk) -> None:
    refused = desk.browser().download(token())
    assert (refused.status_code, refused.headers["location"]) == (303, f"/{token()}")
    assert found(desk.ledger).downloaded_at is None


def test_a_session_ends_after_half_an_hour(desk: Desk) -> None:
    browser = desk.browser()
    signed = browser.type_in(token()).cookies["__Host-link"]
    desk.clock.wait(timedelta(minutes=29))
    assert browser.download(token()).status_code == 200
    desk.clock.wait(timedelta(minutes=1))
    again = desk.browser()
    again.client.cookies.set("__Host-link", signed)
    assert again.download(token()).status_code == 303


def test_who_asks_for_the_file_too_late_is_shown_a_page_and_given_no_file(desk: Desk) -> None:
    """A link that says ``download`` would have the browser keep the page that asks for the date of birth as a file."""
    browser = desk.browser()
    browser.type_in(token())
    assert not re.search(r"<a [^>]*\sdownload", browser.open(token()).text)
    assert "attachment" in browser.download(token()).headers["content-disposition"]


def test_the_session_s_cookie_is_the_browser_s_own_secret(desk: Desk) -> None:
    said = desk.browser().type_in(token()).headers["set-cookie"].lower()
    wanted = ("__host-link=", "secure", "httponly", "samesite=strict", "path=/", "max-age=1800")
    assert [part for part in wanted if part not in said] == []
    assert "domain" not in said


def test_a_session_of_one_link_opens_no_other(desk: Desk, tmp_path: Path) -> None:
    """Uploads of one batch can't be reached from another's link."""
    sent_batch(desk.ledger, tmp_path, batch="covid", content=b"%PDF-1.7 about covid")
    browser = desk.browser()
    browser.type_in(token(2))
    assert browser.download(token(2)).content == PDF
    assert browser.download(token(3)).status_code == 303
    assert browser.download(token(2, "covid")).status_code == 303
    browser.type_in(token(2, "covid"))
    assert browser.download(token(2, "covid")).content == b"%PDF-1.7 about covid"
    assert browser.download(token(2)).status_code == 303


@pytest.mark.parametrize("forged", ["", "x", "9999999999.", "9999999999.00", "-1.00", "99999999999999999999.00"])
def test_a_session_can_not_be_made_up(desk: Desk, forged: str) -> None:
    browser = desk.browser()
    browser.client.cookies.set("__Host-link", forged)
    assert browser.download(token()).status_code == 303


def test_a_form_s_signature_is_no_session(desk: Desk) -> None:
    browser = desk.browser()
    form = hidden(browser.open(token()))
    browser.client.cookies.set("__Host-link", form)
    assert browser.download(token()).status_code == 303


# Wrong dates


def test_a_wrong_date_is_told_with_the_tries_that_are_left_and_the_fifth_locks(desk: Desk) -> None:
    browser = desk.browser()
    for left in ("4 more times", "3 more times", "2 more times", "1 more time"):
        wrong = browser.type_in(token(), WRONG)
        assert wrong.status_code == 422
        assert f"does not match. You can try {left} Date" not in words(wrong)
        assert f"The date of birth does not match. You can try {left}" in words(wrong)
        assert re.search(r"<title>\s*Error: ", wrong.text)
    fifth = browser.type_in(token(), WRONG)
    assert fifth.status_code == 403
    assert "This link is locked" in words(fifth)
    assert "contact Riverside" in words(fifth)
    assert "This link is locked" in words(browser.open(token()))
    assert browser.type_in(token()).status_code == 403
    assert desk.browser().open(token(3)).status_code == 200


def test_a_lock_ends_a_session_too(desk: Desk) -> None:
    browser, other = desk.browser(), desk.browser("192.0.2.8")
    browser.type_in(token())
    for _ in range(5):
        other.type_in(token(), WRONG)
    assert browser.download(token()).status_code == 403


@pytest.mark.parametrize(
    ("typed", "says", "wrong"),
    [
        (("", "", ""), "Enter your date of birth", {"day", "month", "year"}),
        (("31", "", "1980"), "Date of birth must include a month", {"month"}),
        (("31", "2", "1980"), "Date of birth must be a real date", {"day", "month", "year"}),
        (("31", "1", "80"), "Year must include 4 numbers", {"year"}),
        (("31", "1", "2090"), "Date of birth must be in the past", {"day", "month", "year"}),
    ],
)
def test_what_is_no_date_is_no_try(desk: Desk, typed: tuple[str, str, str], says: str, wrong: set[str]) -> None:
    page = desk.browser().type_in(token(), typed)
    assert page.status_code == 422
    assert words(page).count(says) == 2
    assert wrong == {
        name
        for name in ("day", "month", "year")
        if re.search(rf'<input class="[^"]*--error[^"]*" id="birth-{name}"', page.text)
    }
    assert found(desk.ledger).wrong_tries == 0


def test_what_was_typed_is_escaped_when_it_is_shown_again(desk: Desk) -> None:
    page = desk.browser().type_in(token(), ('"><script>alert(1)</script>', "1", "1980"))
    assert "<script" not in page.text
    assert "&gt;&lt;script" in page.text


# Forms that aren't ours


@pytest.mark.parametrize("form", ["", "x", "9999999999.00"])
def test_a_form_that_we_did_not_show_is_no_try(desk: Desk, form: str) -> None:
    for born in (BORN, WRONG):
        answer = desk.browser().type_in(token(), born, form=form)
        assert answer.status_code == 403
        assert "set-cookie" not in answer.headers
        assert "The page was open for too long" in words(answer)
    assert found(desk.ledger).wrong_tries == 0


def test_a_form_is_good_for_its_own_link_alone_and_for_some_hours(desk: Desk) -> None:
    browser = desk.browser()
    form = hidden(browser.open(token(3)))
    assert browser.type_in(token(2), form=form).status_code == 403
    desk.clock.wait(timedelta(hours=4))
    assert browser.type_in(token(3), form=form).status_code == 403
    assert browser.type_in(token(3)).status_code == 303


def test_a_body_too_large_for_a_date_is_not_read(desk: Desk) -> None:
    browser = desk.browser()
    assert browser.client.post(f"/{token()}", data={"day": "1" * 5_000}).status_code == 413


# What doesn't open


def gone(desk: Desk) -> dict[str, list[httpx.Response]]:
    """What browsers see of links that don't open, whatever the cause: opened, posted to, and asked for the file."""
    browser = desk.browser()
    form = hidden(browser.open(token(4)))
    revoke(desk, 2)
    desk.clock.wait(timedelta(hours=1))
    made = {"unknown": NEVER_MADE, "malformed": "no-token-at-all", "revoked": token(2)}
    seen = {
        why: [
            browser.open(each),
            browser.client.post(f"/{each}", data={"day": "31", "month": "1", "year": "1980", "form": form}),
            browser.download(each),
        ]
        for why, each in made.items()
    }
    desk.clock.wait(28 * DAY)
    seen["expired"] = [browser.open(token(3)), browser.type_in(token(3)), browser.download(token(3))]
    return seen


def test_unknown_expired_and_revoked_links_are_one_and_the_same_page(desk: Desk) -> None:
    seen = gone(desk)
    pages = [page for pages in seen.values() for page in pages]
    assert {page.status_code for page in pages} == {404}
    assert len({page.content for page in pages}) == 1
    headers = [{name: value for name, value in page.headers.items() if name != "x-request-id"} for page in pages]
    assert all(each == headers[0] for each in headers)
    assert "This page is no longer available" in words(pages[0])
    assert "form" not in pages[0].text.replace("form-action", "")
    assert "Riverside" not in pages[0].text


def test_whether_a_link_ever_was_shows_in_no_question_to_the_ledger(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that it takes as long: the ledger is asked once, by a hash, whatever the token is like."""
    revoke(desk, 2)
    asked: list[str] = []
    find = links.find

    def note(connection: object, token_hash: str, **more: bool) -> object:
        asked.append(token_hash)
        return find(connection, token_hash, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(links, "find", note)
    browser = desk.browser()
    for each in (NEVER_MADE, "x", token(2)):
        browser.open(each)
    assert asked == [rules.hash_of(each) for each in (NEVER_MADE, "x", token(2))]


def test_revoking_acts_at_once_in_an_open_session(desk: Desk) -> None:
    browser = desk.browser()
    browser.type_in(token())
    assert browser.download(token()).status_code == 200
    revoke(desk)
    assert browser.download(token()).status_code == 404
    assert browser.open(token()).status_code == 404


def test_no_link_opens_while_the_ledger_may_have_forgotten_what_was_revoked(desk: Desk) -> None:
    """It was restored from a copy: until people have decided again, and let all go on."""
    browser, later = desk.browser(), desk.browser("192.0.2.8")
    browser.type_in(token())
    with desk.ledger.write() as connection:
        controls.hold(connection, "it has forgotten what was decided", desk.clock.now)
    for page in (browser.open(token()), browser.download(token()), later.open(token(3)), later.open(NEVER_MADE)):
        assert page.status_code == 503
        assert "try again in a few minutes" in words(page)
    with desk.ledger.write() as connection:
        controls.release(connection, "Dr Grey", desk.clock.now)
    assert browser.download(token()).status_code == 503
    with desk.ledger.write() as connection:
        controls.resume_all(connection, "Dr Grey", desk.clock.now)
    assert browser.download(token()).content == PDF
    assert {line["fault"] for line in desk.logged() if "fault" in line} == {"the ledger was restored from a copy"}


def test_a_pause_of_all_by_a_person_closes_no_link(desk: Desk) -> None:
    with desk.ledger.write() as connection:
        controls.pause_all(connection, "Dr Grey", None, desk.clock.now)
    assert desk.browser().open(token()).status_code == 200


# What every answer carries, and what nothing carries


def test_every_page_has_the_strictest_headers(desk: Desk) -> None:
    browser = desk.browser()
    pages = [browser.open(token()), browser.type_in(token(), WRONG), browser.type_in(token()), browser.open(token())]
    pages += [browser.download(token()), browser.open(NEVER_MADE)]
    for page in pages:
        policy = page.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert "http" not in policy
        assert page.headers["referrer-policy"] == "no-referrer"
        assert "noindex" in page.headers["x-robots-tag"]
        assert page.headers["x-content-type-options"] == "nosniff"
        assert page.headers["cache-control"] == "no-store"


def test_no_page_has_a_script_a_style_of_its_own_or_an_address_elsewhere(desk: Desk) -> None:
    browser = desk.browser()
    pages = [browser.open(token()), browser.type_in(token(), WRONG), browser.open(NEVER_MADE)]
    browser.type_in(token())
    pages.append(browser.open(token()))
    for page in pages:
        assert not re.search(r"<script|<style|\sstyle=|\son\w+=|<iframe|<img", page.text)
        elsewhere = re.findall(r'(?:href|src|action)="([^"]*)"', page.text)
        assert [place for place in elsewhere if not place.startswith(("/", "#"))] == []


def test_nothing_of_a_patient_and_no_token_is_logged(desk: Desk) -> None:
    browser = desk.browser()
    browser.open(token())
    browser.type_in(token(), WRONG)
    browser.type_in(token())
    browser.download(token())
    browser.open(NEVER_MADE)
    log = desk.said
    for secret in (token(), NEVER_MADE, rules.hash_of(token()), "1980", "1981", "192.0.2.7", BATCH):
        assert secret not in log
    assert {line["event"] for line in desk.logged()} == {"page"}
    assert {line.get("workspace") for line in desk.logged()} == {"riverside", None}


def test_the_style_sheet_comes_from_here_and_asks_for_nothing_elsewhere(desk: Desk, tmp_path: Path) -> None:
    css = tmp_path / "nhsuk.css"
    css.write_text(
        '@font-face{font-family:F;src:url(https://assets.nhs.uk/f.woff2) format("woff2")}body{color:#212b32}'
    )
    assert load_css(css) == b"body{color:#212b32}"
    views = Views(load_css(css))
    assert f'<link rel="stylesheet" href="{views.css_path}">' in views.render("gone").decode()
    place = re.search(r'rel="stylesheet" href="([^"]+)"', desk.browser().open(NEVER_MADE).text)
    if load_css():
        assert place is not None
        sheet = desk.browser().client.get(place[1])
        assert (sheet.status_code, sheet.headers["content-type"]) == (200, "text/css; charset=utf-8")
        assert b"@font-face" not in sheet.content
    assert desk.browser().client.get("/assets/other.css").status_code == 404


def test_without_a_style_sheet_the_pages_are_whole(desk: Desk, tmp_path: Path) -> None:
    views = Views(load_css(tmp_path / "none.css"))
    assert views.css_path is None
    assert "stylesheet" not in views.render("gone").decode()


def test_robots_are_told_to_stay_away(desk: Desk) -> None:
    assert "Disallow: /" in desk.browser().client.get("/robots.txt").text
    assert desk.browser().client.get("/favicon.ico").status_code == 204


def test_looking_without_reading_is_answered_and_other_methods_are_not(desk: Desk) -> None:
    browser = desk.browser()
    assert browser.client.request("HEAD", f"/{token()}").status_code == 200
    browser.type_in(token())
    assert browser.client.request("HEAD", f"/{token()}/attachment").status_code == 200
    assert found(desk.ledger).downloaded_at is None
    refused = browser.client.request("PUT", f"/{token()}")
    assert (refused.status_code, refused.headers["allow"]) == (405, "GET, HEAD, POST")


# Too much at once, and trouble


def test_one_address_and_one_link_have_to_wait_after_many_requests(ledger: Ledger, tmp_path: Path) -> None:
    sent_batch(ledger, tmp_path)
    desk = Desk(ledger, tmp_path, limits=PageLimits(requests_by_address=8, requests_of_link=3))
    browser = desk.browser()
    assert [browser.open(token(2)).status_code for _ in range(4)] == [200, 200, 200, 429]
    assert [browser.open(token(3)).status_code for _ in range(4)] == [200, 200, 200, 429]
    later = browser.open(token(4))
    assert (later.status_code, later.headers["retry-after"]) == (429, "60")
    assert "Too many pages were asked for" in words(later)
    desk.clock.wait(timedelta(minutes=1))
    assert browser.open(token(2)).status_code == 200


def test_many_wrong_dates_from_one_address_make_it_wait(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rules, "WRONG_BY_ADDRESS", 2)
    browser = desk.browser()
    for line in (2, 3):
        browser.type_in(token(line), WRONG)
    limited = browser.type_in(token(4))
    assert limited.status_code == 429
    assert "Too many wrong dates of birth" in words(limited)
    assert "try again in an hour" in words(limited)  # not in a few minutes: in vain, and again and again
    assert limited.headers["retry-after"] == "3600"
    assert desk.browser("192.0.2.8").type_in(token(4)).status_code == 303  # another gateway, for all it knows


@pytest.mark.parametrize(
    ("peer", "said", "other", "status"),
    [
        ("127.0.0.1", "203.0.113.9", "203.0.113.10", 303),  # what the proxy says, where one is before us
        ("127.0.0.1", "1.1.1.1, 203.0.113.9", "2.2.2.2, 203.0.113.9", 429),  # what it adds, not what a caller made up
        ("198.51.100.1", "203.0.113.9", "203.0.113.10", 303),  # one on another machine, that is known
        ("192.0.2.7", "203.0.113.9", "203.0.113.10", 429),  # nobody else is believed
    ],
)
def test_whose_address_it_is(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, peer: str, said: str, other: str, status: int
) -> None:
    monkeypatch.setattr(rules, "WRONG_BY_ADDRESS", 1)
    browser = desk.browser(peer)
    browser.client.headers["x-forwarded-for"] = said
    browser.type_in(token(2), WRONG)
    browser.client.headers["x-forwarded-for"] = other
    assert browser.type_in(token(3)).status_code == status


@pytest.mark.parametrize(
    ("first", "second", "status"),
    [
        (["6.6.6.6", "203.0.113.9"], ["7.7.7.7", "203.0.113.9"], 429),  # HAProxy adds a line to the caller's own
        (["203.0.113.9:50123"], ["203.0.113.9:50124"], 429),  # some proxies say the port too
        (["2001:db8:1:2::1"], ["2001:DB8:1:2:ffff::9"], 429),  # who has one address of IPv6 has 2**64
        (["[2001:db8:1:2::1]:50123"], ["2001:db8:1:2::2"], 429),
        (["2001:db8:1:2::1"], ["2001:db8:1:3::1"], 303),
        (["::ffff:203.0.113.9"], ["203.0.113.9"], 429),
        (["::ffff:203.0.113.9"], ["::ffff:203.0.113.10"], 303),
        (["unknown"], ["unknown"], 429),
    ],
)
def test_one_caller_is_one_address_however_it_is_told(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, first: list[str], second: list[str], status: int
) -> None:
    monkeypatch.setattr(rules, "WRONG_BY_ADDRESS", 1)
    assert desk.browser("127.0.0.1").through(first).type_in(token(2), WRONG).status_code == 422
    assert desk.browser("127.0.0.1").through(second).type_in(token(3)).status_code == status


def test_a_ledger_in_trouble_is_told_in_words_and_logged_without_any(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object, **__: object) -> None:
        raise OperationalError("SELECT 1980-01-31", {}, Exception("locked 1980-01-31"))

    monkeypatch.setattr(links, "find", fails)
    answer = desk.browser().open(token())
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "60")
    assert "try again in a few minutes" in words(answer)
    monkeypatch.setattr(links, "find", lambda *_, **__: 1 / 0)
    assert desk.browser().open(token()).status_code == 500
    assert "1980" not in desk.said
    assert [line["fault"].split(" at ")[0] for line in desk.logged()] == ["OperationalError", "ZeroDivisionError"]


def test_a_ledger_that_can_not_be_written_keeps_no_file_from_a_patient(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While an outbox is written nobody else can write: those who are in get the file, others are asked to wait."""
    desk.limits = PageLimits(seconds=0.3)
    browser, later = desk.browser(), desk.browser()
    browser.type_in(token())
    with desk.ledger.write() as connection:
        connection.execute(sa.update(table).values(opened_at=None))
        waits = [later.type_in(token(3)) for _ in range(3)]
        assert {page.status_code for page in waits} == {503}
        assert browser.open(token()).status_code == 200
        assert browser.download(token()).content == PDF
    assert {line["fault"] for line in desk.logged() if "fault" in line} == {"TimeoutError"}


def test_an_attachment_that_is_lost_is_told_of(desk: Desk) -> None:
    browser = desk.browser()
    browser.type_in(token())
    for file in desk.kept.iterdir():
        if file.is_file() and len(file.name) == 64:
            file.unlink()
    assert browser.download(token()).status_code == 500
    assert "attachment isn't in the home" in desk.logged()[-1]["fault"]
    assert found(desk.ledger).downloaded_at is None


def test_a_date_that_is_right_for_another_patient_is_wrong_here(ledger: Ledger, tmp_path: Path) -> None:
    sent_batch(ledger, tmp_path)
    other = date(1990, 5, 17)
    links.write(ledger, BATCH, "attachment", KEYS, rows(3, born=other), Desk(ledger, tmp_path).clock.now)
    desk = Desk(ledger, tmp_path)
    assert desk.browser().type_in(token(2), other).status_code == 422
    assert desk.browser().type_in(token(3), other).status_code == 303
