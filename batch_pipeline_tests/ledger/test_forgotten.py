"""What is asked of providers, and what is for a person, where the journal is lost."""

from datetime import timedelta
from typing import Literal

import sqlalchemy as sa

from batch_pipeline.ledger import forgotten
from batch_pipeline.ledger.engine import Ledger
from batch_pipeline.ledger.forgotten import Kind, Unsent
from batch_pipeline.ledger.tables import attempts, chunks
from batch_pipeline_tests.ledger.given import BATCH, NOW, Recipient, attempt_rows, begin, lines, queue, set_attempts
from batch_pipeline_tests.ledger.waiting import assert_nobody_waits_for_ever
from batch_pipeline_tests.ledgers import on_postgresql_alone

KIND = Kind(BATCH, "primary", "sms", "simulator")
LONG_AGO = NOW - timedelta(days=10)


def _unsent(ledger: Ledger) -> list[Unsent]:
    with ledger.read() as connection:
        return forgotten.unsent(connection, KIND, 0)


def _settle(ledger: Ledger, messages: list[Unsent], outcome: Literal["accepted", "unconfirmed"]) -> int:
    with ledger.write() as connection:
        return forgotten.settle(connection, KIND, messages, "Dr Grey", NOW, outcome=outcome)


def test_the_copy_is_as_old_as_the_last_chunk_that_a_dispatch_claimed(ledger: Ledger) -> None:
    """What reconciling itself made, or put back, tells nothing of when the copy was taken."""
    queue(ledger, lines(4))
    begin(ledger, 2, at=LONG_AGO)
    _settle(ledger, _unsent(ledger)[:1], "unconfirmed")
    with ledger.read() as connection:
        assert forgotten.last_claim(connection) == LONG_AGO


def test_what_is_known_of_by_now_is_left_as_it_is(ledger: Ledger) -> None:
    """By a receipt that came while providers were asked, a cancel, or another who does the same."""
    queue(ledger, lines(4))
    seen = _unsent(ledger)
    set_attempts(ledger, {"delivered_at": NOW}, line=2)
    with ledger.write() as connection:
        connection.execute(sa.delete(attempts).where(attempts.c.line == 3))
    _settle(ledger, seen[2:3], "accepted")
    assert _settle(ledger, seen, "unconfirmed") == 1
    shown = attempt_rows(ledger, "line", "accepted_at", "unconfirmed_at")
    assert shown == [(2, None, None), (4, NOW, None), (5, None, NOW)]
    with ledger.read() as connection:
        assert sorted(connection.scalars(sa.select(chunks.c.messages))) == [1, 1]


def test_a_batch_of_which_all_is_known_need_not_be_asked_about(ledger: Ledger) -> None:
    """Its workspace may be long gone."""
    queue(ledger, lines(1))
    queue(ledger, [Recipient(2, "nhs_app")], "app", message_key="app")
    queue(ledger, lines(1), "done", message_key="done")
    queue(ledger, lines(1, reminder_day=3), "asks", message_key="asks", questionnaire="smoking")
    begin(ledger, 2, batch="app")
    begin(ledger, 2, batch="done")
    begin(ledger, 2, batch="asks")
    set_attempts(ledger, {"accepted_at": NOW}, batch="asks")
    set_attempts(ledger, {"accepted_at": NOW}, batch="app")
    set_attempts(ledger, {"accepted_at": NOW}, batch="done")
    with ledger.read() as connection:
        doubtful = {batch for batch in (BATCH, "app", "done", "asks") if forgotten.may_have_gone(connection, batch)}
    assert doubtful == {BATCH, "app", "asks"}


@on_postgresql_alone
def test_settling_and_who_goes_by_id_do_not_wait_for_each_other(ledger: Ledger) -> None:
    queue(ledger, lines(2))
    seen = list(reversed(_unsent(ledger)))
    assert_nobody_waits_for_ever(ledger, lambda: _settle(ledger, seen, "unconfirmed"), 2, 3)
    assert attempt_rows(ledger, "unconfirmed_at") == [(None,), (None,)]
