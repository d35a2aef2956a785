"""Telling the practice of what can't wait: by a real mail server and a real web server on loopback."""

import socket
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from batch_pipeline.providers.smtp import Smtp
from batch_pipeline.sending.alerting import ByEmail, ByWebhook, Notice, NotTold
from batch_pipeline_tests.providers.mail_server import Deed, MailServer, hang_up
from batch_pipeline_tests.providers.test_smtp import ACCOUNT, at, body

NOW = datetime(2026, 10, 1, 9, tzinfo=UTC)
DUTY = "duty@surgery.example.test"
ONE = Notice("riverside", "bp-2026-10", [7], [17])
SEVERAL = Notice("riverside", "bp-2026-10", [7, 9, 12], [17, 21])


def by_email(server: MailServer) -> "closing[ByEmail]":
    return closing(ByEmail(Smtp(replace(ACCOUNT, port=server.port)), DUTY))


def test_an_email_names_batch_lines_and_where_to_look() -> None:
    with MailServer() as server, by_email(server) as messenger:
        messenger.tell(ONE, NOW)
        messenger.tell(SEVERAL, NOW)
        first, second = server.journal
    assert first.message["To"] == DUTY
    assert first.message["Subject"] == "Urgent: urgent blood pressure reading, batch bp-2026-10"
    assert "from the patient on line 17 of its file" in body(first)
    assert "from each of 2 patients: lines 17, 21" in body(second)
    assert "batch-pipeline inbox bp-2026-10" in body(first)


def test_a_letter_that_is_sent_again_has_the_same_message_id() -> None:
    with MailServer() as server:
        for _ in range(2):
            with by_email(server) as messenger:
                messenger.tell(SEVERAL, NOW)
        assert set(server.references().values()) == {2}


@pytest.mark.parametrize(
    ("stage", "deed"),
    [
        ("RCPT", "550 5.1.1 no such mailbox"),
        ("RCPT", "450 later"),
        ("dot", hang_up),
        ("taken", hang_up),
    ],
)
def test_whoever_may_not_have_been_told_is_not_told(stage: str, deed: Deed) -> None:
    with MailServer(at(stage, deed)) as server, by_email(server) as messenger, pytest.raises(NotTold) as why:
        messenger.tell(ONE, NOW)
    assert DUTY not in str(why.value)


def test_nobody_there_is_not_told() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    make: list[Callable[[], ByEmail | ByWebhook]] = [
        lambda: ByEmail(Smtp(replace(ACCOUNT, port=port)), DUTY),
        lambda: ByWebhook(f"http://127.0.0.1:{port}/a-secret-path", None, 5),
    ]
    for each in make:
        with closing(each()) as messenger, pytest.raises(NotTold) as why:
            messenger.tell(ONE, NOW)
        assert "a-secret-path" not in str(why.value)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (SEVERAL, replace(SEVERAL), True),
        (SEVERAL, replace(SEVERAL, alerts=[12, 9, 7]), True),
        (SEVERAL, replace(SEVERAL, alerts=[7, 10, 12]), False),
        (ONE, SEVERAL, False),
        (ONE, replace(ONE, batch="bp-2026-11"), False),
    ],
)
def test_a_notice_is_known_by_its_alerts(one: Notice, other: Notice, same: bool) -> None:
    assert (one.id == other.id) == same


def test_a_notice_of_many_lines_names_some() -> None:
    many = replace(SEVERAL, alerts=range(1, 1_001), lines=range(2, 1_002))
    assert "from each of 1000 patients: lines 2, 3," in many.text
    assert ", 21, … of its file" in many.text
