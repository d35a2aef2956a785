"""What comes back to a sender of emails. What becomes of those sent while connections drop and processes die: ``test_rounds``."""

import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from batch_pipeline.ledger.engine import Ledger
from batch_pipeline.providers._reference_tokens import ReferenceTokens
from batch_pipeline.providers.bounces import Bounces
from batch_pipeline.providers.smtp import Smtp
from batch_pipeline.sending import dispatcher, receipts
from batch_pipeline.sending.dispatcher import Dispatched
from batch_pipeline_tests.ledger.given import BATCH, NOW, attempt_rows
from batch_pipeline_tests.providers import bounce_samples
from batch_pipeline_tests.providers.mail_server import Deed, MailServer
from batch_pipeline_tests.sending.smtp_worlds import account, emails
from batch_pipeline_tests.sending.worlds import Clock


def _dispatch(ledger: Ledger, mail: Smtp, sleep: Callable[[float], None] | None = None) -> Dispatched:
    """By a clock whose sleeps take no time, or the one given."""
    clock = Clock()
    return dispatcher.dispatch(
        ledger,
        BATCH,
        {"email": mail},
        now=NOW,
        owner="a test",
        wall=lambda: clock.wall,
        steady=lambda: clock.steady,
        sleep=sleep or clock.sleep,
    )


def _not_at_all(_seconds: float) -> None:
    """Workers share the clock: one's waiting, which takes no time, would end another's lease."""


def _a_moment(_seconds: float) -> None:
    """Long enough for the other workers to be answered."""
    time.sleep(0.2)


def _relay_access_denied(stage: str) -> Deed | None:
    return "554 5.7.1 relay access denied" if stage == "RCPT" else None


def _message_id(reference: str) -> str:
    key = account(1).reference_key
    return f"<{ReferenceTokens(key).token(reference)}@surgery.example.test>"


def test_a_bounce_of_a_sent_email_is_a_failure_in_the_ledger(tmp_path: Path) -> None:
    ledger = emails(tmp_path, 3)
    box = tmp_path / "bounces"
    with closing(ledger), MailServer() as server, closing(Smtp(account(server.port))) as mail:
        assert _dispatch(ledger, mail).accepted == 3
        ((reference,),) = attempt_rows(ledger, "reference", line=3)  # the workers' messages come in any order
        bounce = bounce_samples.EXIM.replace("MESSAGE-ID", _message_id(reference))
        bounce = bounce.replace("BOUNCE", server.journal[0].sender)
        box.write_text(f"From MAILER-DAEMON\n{bounce}\n")
        bounces = Bounces(box, ReferenceTokens(account(server.port).reference_key))
        assert [receipts.collect(ledger, [bounces], NOW) for _ in range(2)] == [1, 0]
        assert receipts.fold(ledger, NOW) == receipts.Folded(1, 0)
        states = attempt_rows(ledger, "line", "failure_kind", "failure_code")
    assert states == [(2, None, None), (3, "permanent", "5.0.0"), (4, None, None)]


def test_a_relay_that_does_not_let_us_stops_the_run_and_after_the_mend_everybody_is_sent_to_once(
    tmp_path: Path,
) -> None:
    ledger = emails(tmp_path, 50)
    with closing(ledger), MailServer(_relay_access_denied) as server:
        with closing(Smtp(replace(account(server.port), connections=4))) as mail:
            stopped = _dispatch(ledger, mail, sleep=_a_moment)
            assert (stopped.refused, stopped.accepted, stopped.unsent) == (0, 0, 50)
            assert "554 5.7.1" in stopped.stopped["email"]
            server.fate = lambda _: None
            assert _dispatch(ledger, mail).accepted == 50
        assert set(server.references().values()) == {1}


def test_one_worker_alone_fails_two_at_most_by_a_relay_that_does_not_let_us(tmp_path: Path) -> None:
    ledger = emails(tmp_path, 20)
    with closing(ledger), MailServer(_relay_access_denied) as server:
        mail = Smtp(replace(account(server.port), connections=1))
        stopped = _dispatch(ledger, mail)
        assert (stopped.refused, stopped.accepted, stopped.unsent) == (2, 0, 18)
        server.fate = lambda _: None
        assert _dispatch(ledger, mail).accepted == 18
        mail.close()


@pytest.mark.parametrize(
    "reply", ["451 4.3.0 later", "452 4.3.1 disk full", "454 4.7.1 relay access denied", "450 4.1.8 unknown sender"]
)
def test_a_relay_that_takes_nothing_for_now_was_reached_and_fails_nobody(tmp_path: Path, reply: str) -> None:
    ledger = emails(tmp_path, 5)
    with closing(ledger), MailServer(lambda stage: reply if stage == "RCPT" else None) as server:
        with closing(Smtp(account(server.port))) as mail:
            done = _dispatch(ledger, mail, sleep=_not_at_all)
        assert (done.refused, done.unsent, done.left_open) == (0, 5, 0)
    assert "smtp takes nothing now: 6 calls" in done.stopped["email"]
    assert reply[:9] in done.stopped["email"]
    assert "reached" not in done.stopped["email"]


@pytest.mark.parametrize("odd", [0, 25, 49])
def test_one_odd_recipient_fails_alone(tmp_path: Path, odd: int) -> None:
    ledger = emails(tmp_path, 50)
    address = attempt_rows(ledger, "address")[odd][0]
    with closing(ledger), MailServer(odd={address: "550 5.7.1 blocked"}) as server:
        with closing(Smtp(account(server.port))) as mail:
            done = _dispatch(ledger, mail, sleep=_a_moment)
        assert (done.accepted, done.refused, done.stopped) == (49, 1, {})
        assert len(server.journal) == 49
    assert attempt_rows(ledger, "failure_code", address=address) == [("5.7.1",)]
