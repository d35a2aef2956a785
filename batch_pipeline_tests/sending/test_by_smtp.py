"""What comes back to a sender of emails. What becomes of those sent while connections drop and processes die: ``test_rounds``."""

from contextlib import closing
from pathlib import Path

from batch_pipeline.ledger.engine import Ledger
from batch_pipeline.providers.smtp import Smtp
from batch_pipeline.sending import dispatcher, receipts
from batch_pipeline.sending.dispatcher import Dispatched
from batch_pipeline_tests.ledger.given import BATCH, NOW, attempt_rows
from batch_pipeline_tests.providers import bounce_samples
from batch_pipeline_tests.providers.mail_server import MailServer
from batch_pipeline_tests.sending.smtp_worlds import account, emails
from batch_pipeline_tests.sending.worlds import Clock


def _dispatch(ledger: Ledger, mail: Smtp) -> Dispatched:
    clock = Clock()
    return dispatcher.dispatch(
        ledger,
        BATCH,
        {"email": mail},
        now=NOW,
        owner="a test",
        wall=lambda: clock.wall,
        steady=lambda: clock.steady,
        sleep=clock.sleep,
    )


def test_a_bounce_of_a_sent_email_is_a_failure_in_the_ledger(tmp_path: Path) -> None:
    ledger = emails(tmp_path, 3)
    box = tmp_path / "bounces"
    with closing(ledger), MailServer() as server, closing(Smtp(account(server.port), bounces=box)) as mail:
        assert _dispatch(ledger, mail).accepted == 3
        taken = next(taken for taken in server.journal if taken.recipient == "patient3@example.org")
        message_id = str(taken.message["Message-ID"]).strip()
        bounce = bounce_samples.EXIM.replace("MESSAGE-ID", message_id).replace("BOUNCE", taken.sender)
        box.write_text(f"From MAILER-DAEMON\n{bounce}\n")
        assert [receipts.collect(ledger, [mail], NOW) for _ in range(2)] == [1, 0]
        assert receipts.fold(ledger, NOW) == receipts.Folded(1, 0)
        states = attempt_rows(ledger, "line", "failure_kind", "failure_code")
    assert states == [(2, None, None), (3, "permanent", "5.0.0"), (4, None, None)]
