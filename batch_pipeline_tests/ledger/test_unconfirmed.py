from datetime import timedelta
from typing import Any

import pytest

from batch_pipeline.errors import Refused
from batch_pipeline.ledger import audit, batches, chunks, controls, due
from batch_pipeline.ledger.engine import Ledger
from batch_pipeline.ledger.figures import status
from batch_pipeline.ledger.unconfirmed import Unconfirmed, resolve, unconfirmed
from batch_pipeline.providers.protocol import Receipt
from batch_pipeline.sending import fallbacks, receipts
from batch_pipeline_tests.ledger.given import BATCH, NOW, Recipient, attempt_rows, begin, lines, queue, set_attempts
from batch_pipeline_tests.ledger.waiting import assert_nobody_waits_for_ever
from batch_pipeline_tests.ledgers import on_postgresql_alone

LATER = NOW + timedelta(hours=1)
SECOND = timedelta(seconds=1)


@pytest.fixture
def doubtful(ledger: Ledger) -> Ledger:
    """Lines 2 to 4 are unconfirmed, 5 was accepted, 6 isn't begun."""
    queue(ledger, lines(5))
    begin(ledger, 2, 3, 4, 5)
    for line in (2, 3, 4):
        set_attempts(ledger, {"unconfirmed_at": NOW + SECOND}, line=line)
    set_attempts(ledger, {"accepted_at": NOW}, line=5)
    return ledger


@on_postgresql_alone
def test_resolving_and_who_goes_by_id_do_not_wait_for_each_other(ledger: Ledger) -> None:
    """A fallback has a higher id than the messages of later lines."""
    queue(ledger, [Recipient(2, "nhs_app"), Recipient(3)])
    set_attempts(ledger, {"accepted_at": NOW}, line=2)
    fallbacks.sweep(ledger, BATCH, NOW + timedelta(days=2), fallbacks.FallbackFacts("simulator"))
    begin(ledger, 2, 3)
    set_attempts(ledger, {"unconfirmed_at": NOW}, step="fallback")
    set_attempts(ledger, {"unconfirmed_at": NOW}, line=3)
    assert _listed(ledger) == [2, 3]
    assert_nobody_waits_for_ever(ledger, lambda: _resolve(ledger, sent=True), 3, 2)


def _listed(ledger: Ledger) -> list[int]:
    with ledger.read() as connection:
        return [each.line for each in unconfirmed(connection, BATCH)]


def _resolve(ledger: Ledger, *some: int, sent: bool, by: str = "Dr Grey") -> list[int]:
    with ledger.write() as connection:
        return [each.line for each in resolve(connection, BATCH, some, by, LATER, sent=sent)]


def _claim(ledger: Ledger, limit: int = 10) -> chunks.Chunk:
    with ledger.write() as connection:
        claimed = chunks.claim(
            connection,
            BATCH,
            "primary",
            "sms",
            provider="simulator",
            number=7,
            limit=limit,
            owner="x",
            lease_until=NOW,
            now=LATER,
        )
    assert claimed is not None
    return claimed.chunk


def _store(ledger: Ledger, line: int, kind: Any) -> None:
    receipts.store(ledger, "simulator", [Receipt(f"{line} {kind}", f"{BATCH}:{line}:primary", kind, LATER)], LATER)


def test_the_list_says_line_channel_provider_and_when_and_nothing_personal(doubtful: Ledger) -> None:
    with doubtful.read() as connection:
        first = unconfirmed(connection, BATCH)[0]
    assert first == Unconfirmed(2, "primary", "sms", "simulator", NOW, f"{BATCH}:2:primary", first.chunk)
    assert _listed(doubtful) == [2, 3, 4]
    with doubtful.read() as connection, pytest.raises(Refused, match="there is no batch nope"):
        unconfirmed(connection, "nope")


def test_sent_means_accepted_when_it_was_begun(doubtful: Ledger) -> None:
    assert _resolve(doubtful, 2, 4, sent=True) == [2, 4]
    assert attempt_rows(doubtful, "accepted_at", "begun_at", line=2) == [(NOW, NOW)]
    assert _listed(doubtful) == [3]
    assert _claim(doubtful).messages == 1  # line 6 alone


def test_not_sent_goes_again_in_a_new_chunk(doubtful: Ledger) -> None:
    before = attempt_rows(doubtful, "chunk", line=3)
    assert _resolve(doubtful, 3, sent=False) == [3]
    assert attempt_rows(doubtful, "chunk", "begun_at", "unconfirmed_at", line=3) == [(None, None, None)]
    with doubtful.read() as connection:
        assert due.ready_to_send(connection) == [BATCH]
    claimed = _claim(doubtful)
    assert claimed.messages == 2
    assert attempt_rows(doubtful, "chunk", line=3) == [(claimed.reference,)] != before


def test_each_is_audited_by_line_and_the_final_report_is_made_again(doubtful: Ledger) -> None:
    with doubtful.write() as connection:
        batches.mark_reported(connection, BATCH, batches.get(connection, BATCH).changes, NOW)
        assert batches.get(connection, BATCH).reported_at == NOW
    _resolve(doubtful, 2, 3, sent=False)
    with doubtful.read() as connection:
        entries = [entry for entry in audit.entries(connection, BATCH) if entry.action == "resolve"]
        assert batches.get(connection, BATCH).reported_at is None
    assert [(entry.who, entry.detail["line"], entry.detail["found"]) for entry in entries] == [
        ("Dr Grey", 2, "not sent"),
        ("Dr Grey", 3, "not sent"),
    ]
    assert set(entries[0].detail) == {"line", "step", "channel", "provider", "chunk", "found"}


@pytest.mark.parametrize("others", [[5], [6], [99], [5, 99]])
def test_others_are_refused_by_line_and_nothing_is_recorded(doubtful: Ledger, others: list[int]) -> None:
    named = ", ".join(map(str, others))
    with pytest.raises(Refused, match=f"nothing is unconfirmed of line {named}: look at"):
        _resolve(doubtful, 2, *others, sent=False)
    assert _listed(doubtful) == [2, 3, 4]


def test_without_lines_all_are_meant_and_twice_there_is_nothing_left(doubtful: Ledger) -> None:
    assert _resolve(doubtful, sent=True) == [2, 3, 4]
    assert _resolve(doubtful, sent=True) == []
    with pytest.raises(Refused, match="line 2"):
        _resolve(doubtful, 2, sent=False)


def test_all_of_a_batch_that_is_being_sent_is_refused_and_some_are_not(doubtful: Ledger) -> None:
    _claim(doubtful)
    with pytest.raises(Refused, match="is being sent"):
        _resolve(doubtful, sent=False)
    assert _resolve(doubtful, 2, sent=False) == [2]


def test_what_a_process_still_holds_cannot_be_resolved(doubtful: Ledger) -> None:
    claimed = _claim(doubtful)
    set_attempts(doubtful, {"unconfirmed_at": LATER}, line=6)
    with pytest.raises(Refused, match="line 6"):
        _resolve(doubtful, 6, sent=False)
    with doubtful.write() as connection:
        assert chunks.leave_unconfirmed(connection, claimed, LATER)
    assert _resolve(doubtful, 6, sent=False) == [6]


@pytest.mark.parametrize("kind", ["accepted", "delivered", "failed"])
def test_a_receipt_goes_before_the_person(doubtful: Ledger, kind: str) -> None:
    _store(doubtful, 2, kind)
    with pytest.raises(Refused, match="line 2"):  # it waits to be folded
        _resolve(doubtful, 2, sent=False)
    receipts.fold(doubtful, LATER)
    with pytest.raises(Refused, match="line 2"):
        _resolve(doubtful, 2, sent=False)
    assert attempt_rows(doubtful, f"{kind}_at", line=2) == [(LATER,)]


def test_a_receipt_of_another_provider_stands_in_nobodys_way(doubtful: Ledger) -> None:
    receipts.store(doubtful, "another", [Receipt("k", f"{BATCH}:2:primary", "delivered", LATER)], LATER)
    assert _listed(doubtful) == [2, 3, 4]


def test_a_receipt_that_comes_after_not_sent_keeps_it_from_being_sent(doubtful: Ledger) -> None:
    _resolve(doubtful, 2, sent=False)
    _store(doubtful, 2, "delivered")
    receipts.fold(doubtful, LATER)
    assert _claim(doubtful).messages == 1
    assert attempt_rows(doubtful, "chunk", "delivered_at", line=2) == [(None, LATER)]


def test_a_receipt_that_comes_after_sent_corrects_it(doubtful: Ledger) -> None:
    _resolve(doubtful, 2, sent=True)
    _store(doubtful, 2, "failed")
    receipts.fold(doubtful, LATER)
    assert attempt_rows(doubtful, "accepted_at", "failed_at", line=2) == [(NOW, LATER)]


def test_of_a_cancelled_batch_what_was_not_sent_is_cancelled(doubtful: Ledger) -> None:
    with doubtful.write() as connection:
        controls.cancel(connection, BATCH, "Dr Grey", NOW)
    _resolve(doubtful, 2, sent=False)
    assert attempt_rows(doubtful, "cancelled_at", "begun_at", line=2) == [(LATER, None)]
    with doubtful.read() as connection:
        assert due.ready_to_send(connection) == []


def test_an_app_message_that_was_sent_falls_back_from_when_it_was_begun(ledger: Ledger) -> None:
    queue(ledger, [Recipient(2, "nhs_app")])
    begin(ledger, 2)
    set_attempts(ledger, {"unconfirmed_at": NOW})
    day = timedelta(hours=24)
    with ledger.read() as connection:
        assert fallbacks.due(connection, NOW + 2 * day) == {}
    _resolve(ledger, sent=True)
    with ledger.read() as connection:
        assert fallbacks.due(connection, NOW + day - SECOND) == {}
        assert fallbacks.due(connection, NOW + day) == {BATCH: 1}


@pytest.mark.parametrize("with_fallbacks", [False, True])
def test_a_fallback_that_was_not_sent_goes_unless_it_was_cancelled(ledger: Ledger, with_fallbacks: bool) -> None:
    queue(ledger, [Recipient(2, "nhs_app")])
    begin(ledger, 2)
    set_attempts(ledger, {"accepted_at": NOW})
    day = timedelta(hours=24)
    fallbacks.sweep(ledger, BATCH, NOW + day, fallbacks.FallbackFacts("simulator"))
    begin(ledger, 2)
    set_attempts(ledger, {"unconfirmed_at": NOW + day}, step="fallback")
    with ledger.write() as connection:
        controls.cancel(connection, BATCH, "Dr Grey", NOW, with_fallbacks=with_fallbacks)
    _resolve(ledger, 2, sent=False)
    with ledger.read() as connection:
        assert due.with_unsent_fallbacks(connection) == (set() if with_fallbacks else {BATCH})
    ended = attempt_rows(ledger, "no_fallback_because", step="primary")
    assert ended == [("cancelled",) if with_fallbacks else (None,)]


@pytest.mark.parametrize("cancelled", [False, True])
@pytest.mark.parametrize(
    ("kinds", "falls_back_after"),
    [
        (["accepted"], timedelta(hours=24)),
        (["accepted", "delivered"], timedelta(hours=24)),
        (["failed"], timedelta(0)),
        (["delivered", "failed"], timedelta(hours=24)),
        (["delivered"], None),
        (["read"], None),
        (["failed", "read"], None),
    ],
)
def test_an_app_message_that_was_sent_after_all_ends(
    ledger: Ledger, kinds: list[str], falls_back_after: timedelta | None, cancelled: bool
) -> None:
    """A person said it wasn't, and receipts came all the same: it is never sent again, and its patient has an end."""
    queue(ledger, [Recipient(2, "nhs_app")])
    begin(ledger, 2)
    set_attempts(ledger, {"unconfirmed_at": NOW})
    if cancelled:
        with ledger.write() as connection:
            controls.cancel(connection, BATCH, "Dr Grey", NOW)
    _resolve(ledger, 2, sent=False)
    for kind in kinds:
        _store(ledger, 2, kind)
    receipts.fold(ledger, LATER)
    with ledger.read() as connection:
        assert not chunks.has_unsent(connection, BATCH, "primary", "nhs_app", "simulator")
        assert due.ready_to_send(connection) == []
        assert (due.ended_unreported(connection) == [BATCH]) is (falls_back_after is None)
        assert status(connection, BATCH).all_ended is (falls_back_after is None)
    for wait in (timedelta(0), timedelta(hours=24) - SECOND, timedelta(hours=24)):
        with ledger.read() as connection:
            is_due = falls_back_after is not None and wait >= falls_back_after
            assert fallbacks.due(connection, LATER + wait) == ({BATCH: 1} if is_due else {})
