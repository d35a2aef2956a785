from collections.abc import Generator
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from typing_extensions import override

from batch_pipeline.ledger import audit, batches, breaker, controls
from batch_pipeline.ledger.breaker import Breaker
from batch_pipeline.ledger.controls import BREAKER
from batch_pipeline.ledger.engine import Ledger
from batch_pipeline.rules.circuit_breaker import BreakerRule, Tally
from batch_pipeline_tests.ledger.given import BATCH, NOW, begin, lines, query_plans, queue, set_attempts
from batch_pipeline_tests.ledgers import on_sqlite_alone

RULE = BreakerRule(share=0.1, least=10)
LATER = NOW + timedelta(hours=1)


@pytest.fixture
def sent(ledger: Ledger) -> Ledger:
    """Twenty texts, lines 2 to 21; the first ten are accepted."""
    queue(ledger, lines(20))
    _send(ledger, range(2, 12))
    return ledger


def _send(ledger: Ledger, some: range, at: datetime = NOW) -> None:
    begin(ledger, *some, at=at)
    for line in some:
        set_attempts(ledger, {"accepted_at": at}, line=line)


def _fail(ledger: Ledger, *some: int, kind: str = "permanent") -> None:
    for line in some:
        set_attempts(ledger, {"failed_at": NOW, "failure_kind": kind}, line=line)


def _because(ledger: Ledger, rule: BreakerRule = RULE, now: datetime = NOW) -> str | None:
    pause = Breaker(ledger, BATCH, rule).after_receipts(now)
    return None if pause is None else pause.because


@pytest.mark.parametrize("kind", ["permanent", "temporary", "technical", "rejected"])
def test_a_channel_that_fails_pauses_the_batch_with_the_figures(sent: Ledger, kind: str) -> None:
    set_attempts(sent, {"delivered_at": NOW}, accepted_at=NOW)
    assert _because(sent) is None
    for line in (2, 3):
        set_attempts(sent, {"delivered_at": None, "failed_at": NOW, "failure_kind": kind}, line=line)
    assert _because(sent) == "2 of 10 messages by SMS failed, more than 10 %"
    with sent.read() as connection:
        pause = controls.standing(connection, BATCH)
        entry = audit.entries(connection, BATCH)[-1]
    assert pause is not None
    assert (pause.by, pause.at) == (BREAKER, NOW)
    assert (entry.who, entry.action, entry.detail) == (BREAKER, "pause", {"because": pause.because})
    assert _because(sent) is None  # once


def test_what_was_corrected_by_a_delivery_or_only_not_heard_of_is_no_failure(sent: Ledger) -> None:
    _fail(sent, 2, 3, 4)
    set_attempts(sent, {"delivered_at": NOW}, accepted_at=NOW)
    set_attempts(sent, {"delivered_at": None, "timed_out_at": NOW}, line=5)
    set_attempts(sent, {"delivered_at": None, "timed_out_at": NOW}, line=6)
    set_attempts(sent, {"delivered_at": None, "timed_out_at": NOW}, line=7)
    assert _because(sent, BreakerRule(0.1, 5)) is None


def test_refusals_count_among_all_that_was_answered(sent: Ledger) -> None:
    for line in (2, 3):
        set_attempts(sent, {"accepted_at": None, "failed_at": NOW, "failure_kind": "refused"}, line=line)
    assert _because(sent, BreakerRule(0.2, 10)) is None
    assert _because(sent) == "2 of 10 messages by SMS failed, more than 10 %"


def test_too_few_are_no_reason(sent: Ledger) -> None:
    _fail(sent, *range(2, 12))
    assert _because(sent, BreakerRule(0.1, 11)) is None
    assert _because(sent, BreakerRule(0.1, 10)) is not None


def test_each_channel_is_counted_by_itself_and_accepted_emails_have_arrived(ledger: Ledger) -> None:
    queue(ledger, [*lines(20, "email"), *lines(3, start=40)])
    _send(ledger, range(2, 43))
    _fail(ledger, 40, 41, 42)
    assert _because(ledger) is None
    _fail(ledger, 2, 3)
    assert _because(ledger) is None
    _fail(ledger, 4)
    assert _because(ledger) == "3 of 20 messages by email failed, more than 10 %"


def test_after_a_resume_the_same_failures_do_not_trip_it_again_but_new_ones_do(sent: Ledger) -> None:
    _fail(sent, 2, 3, 4)
    assert _because(sent) is not None
    with sent.write() as connection:
        controls.resume(connection, BATCH, "Dr Grey", NOW)
    assert _because(sent) is None
    _fail(sent, 5, 6)  # of those that were sent before
    assert _because(sent) is None
    _send(sent, range(12, 22), at=LATER)
    assert _because(sent) is None
    _fail(sent, 12, 13)
    assert _because(sent, now=LATER) == "2 of 10 messages by SMS failed, more than 10 %"


def test_who_resumed_it_while_it_was_counted_is_not_overruled(sent: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    _fail(sent, 2, 3, 4)
    count = Breaker._reason

    def count_while_another_trips_it_and_a_person_resumes(*given: Any) -> str | None:
        found = count(*given)
        with sent.write() as connection:
            controls.pause(connection, BATCH, BREAKER, "too many", NOW)
            controls.resume(connection, BATCH, "Dr Grey", LATER)
        return found

    monkeypatch.setattr(Breaker, "_reason", count_while_another_trips_it_and_a_person_resumes)
    assert _because(sent) is None
    with sent.read() as connection:
        assert batches.get(connection, BATCH).paused_at is None


def test_a_paused_batch_is_left_as_it_is(sent: Ledger) -> None:
    _fail(sent, 2, 3, 4)
    with sent.write() as connection:
        controls.pause(connection, BATCH, "Dr Grey", None, NOW)
    assert _because(sent) is None
    with sent.read() as connection:
        assert batches.get(connection, BATCH).paused_by == "Dr Grey"


@on_sqlite_alone
def test_the_quick_look_goes_by_an_index_of_the_failures_alone(sent: Ledger) -> None:
    plan = query_plans(sent, lambda connection: connection.execute(breaker._FAILURES, {"of_batch": BATCH}))
    assert "SEARCH attempts USING COVERING INDEX ix_attempts_failed (batch=? AND begun_at>?)" in plan
    assert not any("SCAN" in line for line in plan), plan


def test_all_are_counted_again_only_when_the_share_could_be_beyond(
    sent: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted: list[str] = []
    tally = breaker._tally

    def count(connection: sa.Connection, batch: str, channel: str, since: datetime) -> Tally:
        counted.append(channel)
        return tally(connection, batch, channel, since)

    monkeypatch.setattr(breaker, "_tally", count)
    steady = [100.0]
    watch = Breaker(sent, BATCH, BreakerRule(share=0.2, least=5), lambda: steady[0])

    def after_a_second(refused: int = 0) -> breaker.Pause | None:
        steady[0] += 1
        return watch.after_chunk(refused, NOW)

    _fail(sent, 2)
    assert (after_a_second(), counted) == (None, [])
    _fail(sent, 3)
    set_attempts(sent, {"delivered_at": NOW}, line=2)
    assert (after_a_second(), counted) == (None, ["sms"])
    assert (after_a_second(), counted) == (None, ["sms"])
    _fail(sent, 4)
    set_attempts(sent, {"delivered_at": None}, line=2)
    pause = after_a_second()
    assert counted == ["sms", "sms"]
    assert pause is not None
    assert pause.because == "3 of 10 messages by SMS failed, more than 20 %"


def test_between_its_looks_a_run_that_knows_of_too_few_refusals_asks_nothing(sent: Ledger) -> None:
    looks: list[int] = []

    class Read(Ledger):
        @override
        @contextmanager
        def read(self) -> Generator[sa.Connection]:
            looks.append(len(looks))
            with super().read() as connection:
                yield connection

    watch = Breaker(Read(sent._engine), BATCH, BreakerRule(share=0.2, least=5), lambda: 100.0)
    assert watch.after_chunk(0, NOW) is None
    assert looks, "the first time: others may have died before they asked"
    looks.clear()
    _fail(sent, 2, 3, 4)
    assert (watch.after_chunk(0, NOW), looks) == (None, []), "others' failures wait for the second to end"
    assert (watch.after_chunk(1, NOW), looks) == (None, []), "one of five isn't too many"
    pause = watch.after_chunk(1, NOW)
    assert looks
    assert pause is not None
    assert pause.because == "3 of 10 messages by SMS failed, more than 20 %"
