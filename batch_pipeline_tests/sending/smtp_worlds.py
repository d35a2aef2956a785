"""A batch of emails, and the account that sends them to a test's own mail server."""

from datetime import timedelta
from pathlib import Path

from batch_pipeline.ledger.engine import Ledger
from batch_pipeline.providers.smtp import SmtpAccount
from batch_pipeline_tests.ledger.given import lines, open_ledger, queue


def account(port: int, timeout: float = 10) -> SmtpAccount:
    """With one connection, so that a test's clock is moved by one worker alone."""
    return SmtpAccount(
        host="127.0.0.1",
        port=port,
        from_address="no-reply@surgery.example.test",
        from_name="Riverside Surgery",
        bounce_address="bounce@surgery.example.test",
        message_id_domain="surgery.example.test",
        reference_key=b"a key for tests, and nothing else",
        security="none",
        timeout=timedelta(seconds=timeout),
        connections=1,
    )


def emails(folder: Path, count: int) -> Ledger:
    ledger = open_ledger(folder)
    queue(ledger, lines(count, "email", provider="smtp"))
    return ledger
