"""A batch that goes by the real providers: from the workspace's file to their servers, and back through the gateway."""

import json
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from batch_pipeline_tests.e2e.surgery import PROGRAM, Surgery, T, by_email, by_sms, hours, plain
from batch_pipeline_tests.providers import govuk_notify_double as govuk
from batch_pipeline_tests.providers import nhs_notify_double as nhs
from batch_pipeline_tests.providers.mail_server import MailServer

EMAILED, READS, UNREAD, TEXTED, TEXT_FAILS = by_email(1), by_sms(2), by_sms(3), by_sms(4), by_sms(5)
APPLICATION, TOKEN = "an-application", "a token for tests, long enough"


@dataclass
class Town:
    """A surgery and its providers."""

    surgery: Surgery
    notify: nhs.NhsNotifyDouble
    govuk: govuk.GovukNotifyDouble
    mail: MailServer

    def taken(self) -> list[str]:
        """Every message that a provider took, as often as it did, by the plain form of its reference."""
        return sorted(map(plain, [*self.notify.times().elements(), *self.govuk.counts().elements()]))


@dataclass
class Gateway:
    """The real program, which the providers call."""

    url: str

    def called(self, path: str, body: str | bytes, headers: dict[str, str]) -> int:
        return httpx.post(f"{self.url}/callbacks/larkfield/{path}", content=body, headers=headers).status_code

    def told_by_nhs_notify(self, *news: dict[str, Any]) -> None:
        body = json.dumps({"data": news}).encode()
        assert self.called("nhs-notify", body, nhs.signed(body, APPLICATION, nhs.API_KEY)) == 202


@contextmanager
def gateway(town: "Town") -> Iterator[Gateway]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    command = [PROGRAM, "--home", str(town.surgery.home.root), "gateway", "--port", str(port)]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as program:
        try:
            give_up = time.monotonic() + 60
            while not _is_ready(url):
                assert program.poll() is None
                assert time.monotonic() < give_up
                time.sleep(0.1)
            yield Gateway(url)
        finally:
            program.terminate()


def _is_ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/readyz").status_code == 200
    except httpx.TransportError:
        return False


@pytest.fixture
def town(surgery: Surgery, monkeypatch: pytest.MonkeyPatch) -> Iterator[Town]:
    with ExitStack() as running:
        notify, texts, mail = (
            running.enter_context(nhs.NhsNotifyDouble()),
            running.enter_context(govuk.GovukNotifyDouble().running()),
            running.enter_context(MailServer()),
        )
        for name, value in {
            "NHS_NOTIFY_API_KEY": nhs.API_KEY,
            "NHS_NOTIFY_PRIVATE_KEY": nhs.private_key(),
            "NHS_NOTIFY_APPLICATION_ID": APPLICATION,
            "GOVUK_NOTIFY_API_KEY": govuk.API_KEY,
            "GOVUK_NOTIFY_CALLBACK_TOKEN": TOKEN,
        }.items():
            monkeypatch.setenv(f"BATCH_PIPELINE_{name}", value)
        surgery.app_users(READS, UNREAD)
        surgery.workspace(
            providers={"email": "smtp", "nhs_app": "nhs_notify", "sms": "govuk_notify"},
            nhs_notify={"base_url": f"{notify.host}/comms", "key_id": nhs.KEY_ID, "sends_ods_code": True},
            govuk_notify={"base_url": texts.url, "sms_template_id": govuk.SMS_TEMPLATE},
            smtp={
                "host": "127.0.0.1",
                "port": mail.port,
                "security": "none",
                "from_address": "no-reply@larkfield.example.test",
            },
        )
        yield Town(surgery, notify, texts, mail)
    assert (notify.failures, texts.violations) == ([], [])


def test_a_batch_goes_by_three_providers_and_hears_of_it_through_the_gateway(town: Town) -> None:
    surgery = town.surgery
    surgery.send(surgery.batch("flu", [EMAILED, READS, UNREAD, TEXTED, TEXT_FAILS]))
    (letter,) = town.mail.journal
    assert letter.message["To"] == EMAILED.email
    parts = list(letter.message.iter_parts())
    assert [part.get_content_subtype() for part in parts] == ["plain", "html"]
    assert all("your flu vaccination is ready" in part.get_content() for part in parts)
    assert town.taken() == [f"flu:{line}:primary" for line in range(3, 7)]
    assert {taken.nhs_number for taken in town.notify.journal} == {READS.nhs, UNREAD.nhs}
    surgery.status("flu", emailed=1, awaiting=4)

    references = surgery.references("flu")
    of_unread, of_reader = references["flu:4:primary"], references["flu:3:primary"]
    unread = nhs.channel_status(of_unread, "nhsapp", "sending", "delivered", key="k1")
    read = nhs.channel_status(of_reader, "nhsapp", "delivered", "read", key="k2")
    forged = json.dumps({"data": [nhs.channel_status(of_unread, "nhsapp", "delivered", "read", key="k3")]})
    with gateway(town) as running:
        # the same news twice, and the later first
        running.told_by_nhs_notify(read)
        running.told_by_nhs_notify(unread, read)
        headers = nhs.signed(forged.encode(), APPLICATION, nhs.API_KEY)
        assert running.called("nhs-notify", forged, headers | {"x-hmac-sha256-signature": "0" * 64}) == 403
        assert running.called("nhs-notify", forged, headers | {"x-api-key": "another"}) == 401
        allowed = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"}
        for body in town.govuk.callbacks():
            told = json.loads(body)
            if told["reference"] == references["flu:6:primary"]:
                told["status"] = "permanent-failure"
            assert running.called("govuk-notify", json.dumps(told), allowed) == 202
        assert running.called("govuk-notify", b"{}", {"Authorization": "Bearer x"}) == 401

    surgery.done("sweep", at=T + hours(1))
    surgery.status("flu", emailed=1, delivered=3, failed=1, read=1, unread=1, awaiting=0)
    surgery.done("sweep", at=T + hours(24))
    assert town.taken() == ["flu:3:primary", "flu:4:fallback", "flu:4:primary", "flu:5:primary", "flu:6:primary"]
    surgery.status("flu", fallback_sent=1)


def test_a_lost_answer_of_any_of_them_sends_nobody_anything_twice(town: Town) -> None:
    town.notify.plan("batches", nhs.Fault(drop="after"))
    town.surgery.workspace(nhs_notify=town.surgery.keys["nhs_notify"] | {"timeout": 1})
    town.surgery.send(town.surgery.batch("flu", [READS, UNREAD]))
    assert town.taken() == ["flu:2:primary", "flu:3:primary"]
    town.surgery.status("flu", awaiting=2)


@pytest.mark.parametrize("variable", ["NHS_NOTIFY_API_KEY", "GOVUK_NOTIFY_API_KEY"])
def test_a_missing_key_is_told_when_the_batch_is_submitted_and_by_the_gateway(
    town: Town, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    spec = town.surgery.batch("flu", [TEXTED])
    monkeypatch.delenv(f"BATCH_PIPELINE_{variable}")
    said = town.surgery.refused("submit", spec, at=T)
    assert f"BATCH_PIPELINE_{variable} isn't set" in said
    assert "BATCH_PIPELINE_NHS_NOTIFY_APPLICATION_ID" in _refused_by_the_gateway(town, monkeypatch)


def _refused_by_the_gateway(town: Town, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.delenv("BATCH_PIPELINE_NHS_NOTIFY_APPLICATION_ID")
    return town.surgery.refused("gateway", "--port", "1")


def test_a_provider_that_refuses_our_key_is_told_without_a_patient_or_a_key(
    town: Town, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = govuk.API_KEY.replace(govuk.SECRET, govuk.SENDER)
    monkeypatch.setenv("BATCH_PIPELINE_GOVUK_NOTIFY_API_KEY", wrong)
    town.surgery.done("submit", town.surgery.batch("flu", [TEXTED]), at=T)
    town.surgery.done("approve", "flu", "--by", "Dr Test", at=T)
    ran = town.surgery.shell("dispatch", "flu", at=T)
    assert (ran.code, town.taken()) == (1, [])
    assert "sending by sms stopped" in ran.words
    assert not [secret for secret in (TEXTED.mobile, TEXTED.nhs, TEXTED.surname, wrong[-36:]) if secret in ran.words]
    # with the right key again everything goes
    monkeypatch.setenv("BATCH_PIPELINE_GOVUK_NOTIFY_API_KEY", govuk.API_KEY)
    town.surgery.done("dispatch", "flu", at=T)
    assert town.taken() == ["flu:2:primary"]
