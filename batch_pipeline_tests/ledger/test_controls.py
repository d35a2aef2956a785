from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from batch_pipeline.errors import Refused
from batch_pipeline.ledger import audit, batches, chunks, controls, due, figures, outbox
from batch_pipeline.ledger.controls import BREAKER, Cancelled, Pause
from batch_pipeline.ledger.engine import Ledger
from batch_pipeline.rules.costs import Prices
from batch_pipeline.rules.states import shown_status
from batch_pipeline.sending import fallbacks
from batch_pipeline_tests.ledger.given import (
    BATCH,
    LATER_PLAN,
    NOW,
    PLAN,
    Recipient,
    approve,
    attempt_rows,
    begin,
    lines,
    queue,
    rows,
    set_attempts,
    submission,
)

LATER = NOW + timedelta(hours=1)
DAY = timedelta(hours=24)
FACTS = fallbacks.FallbackFacts("simulator")


def _actions(ledger: Ledger) -> list[tuple[str, str, str | None, dict[str, Any]]]:
    with ledger.read() as connection:
        every = audit.entries(connection)
    chosen = [entry for entry in every if entry.action not in ("submit", "review", "approve")]
    return [(entry.who, entry.action, entry.batch, dict(entry.detail)) for entry in chosen]


def _lets(ledger: Ledger, batch: str = BATCH) -> tuple[bool, bool]:
    """Whether first messages, and fallbacks, may be begun."""
    with ledger.read() as connection:
        state = chunks.sendable(connection, batch)
    return state.lets("primary"), state.lets("fallback")


def _shown(ledger: Ledger) -> str:
    with ledger.read() as connection:
        return shown_status(figures.status(connection, BATCH))


def _figures(ledger: Ledger, plan: dict[str, Any] | None = None) -> dict[str, Any]:
    with ledger.read() as connection:
        found = figures.figures(connection, BATCH, plan or {}, Prices())
    parts = ("emailed", "delivered", "failed", "awaiting", "cancelled", "expired", "unconfirmed", "held_back")
    assert sum(found["recipients"].values()) == sum(found[part] for part in parts)
    return {part: found[part] for part in parts if found[part]}


def _cancel(ledger: Ledger, by: str = "Dr Grey", **more: Any) -> Cancelled:
    with ledger.write() as connection:
        return controls.cancel(connection, BATCH, by, more.pop("now", NOW), **more)


# Pausing one


def test_a_pause_says_who_when_and_why_and_again_changes_nothing(ledger: Ledger) -> None:
    queue(ledger, lines(2))
    with ledger.write() as connection:
        first = controls.pause(connection, BATCH, "Dr Grey", "a slip in the text", NOW)
        assert first == (Pause(NOW, "Dr Grey", "a slip in the text", of_all=False), True)
    with ledger.write() as connection:
        again = controls.pause(connection, BATCH, "Dr White", None, LATER)
        assert again == (first.pause, False)
        assert controls.standing(connection, BATCH) == first.pause
    assert _lets(ledger) == (False, False)
    assert _shown(ledger) == "Scheduled (paused)"
    assert _actions(ledger) == [("Dr Grey", "pause", BATCH, {"because": "a slip in the text"})]


def test_resuming_lifts_it_once(ledger: Ledger) -> None:
    queue(ledger, lines(2))
    with ledger.write() as connection:
        pause = controls.pause(connection, BATCH, "Dr Grey", None, NOW).pause
        assert controls.resume(connection, BATCH, "Dr White", LATER) == pause
        assert controls.resume(connection, BATCH, "Dr White", LATER) is None
        assert controls.standing(connection, BATCH) is None
        assert batches.get(connection, BATCH).breaker_from is None
    assert _lets(ledger) == (True, True)
    assert [entry[:2] for entry in _actions(ledger)] == [("Dr Grey", "pause"), ("Dr White", "resume")]


def test_nothing_is_requested_for_a_paused_batch(ledger: Ledger) -> None:
    queue(ledger, [Recipient(2, "nhs_app"), Recipient(3)])
    begin(ledger, 2)
    set_attempts(ledger, {"accepted_at": NOW}, line=2)
    fallbacks.sweep(ledger, BATCH, NOW + DAY, FACTS)

    def asked() -> tuple[list[str], set[str]]:
        with ledger.read() as connection:
            return due.ready_to_send(connection), due.with_unsent_fallbacks(connection)

    assert asked() == ([BATCH], {BATCH})
    for pause, resume in (
        (lambda c: controls.pause(c, BATCH, "x", None, NOW), lambda c: controls.resume(c, BATCH, "x", NOW)),
        (lambda c: controls.pause_all(c, "x", None, NOW), lambda c: controls.resume_all(c, "x", NOW)),
    ):
        with ledger.write() as connection:
            pause(connection)
        assert asked() == ([], set())
        with ledger.write() as connection:
            resume(connection)
        assert asked() == ([BATCH], {BATCH})


@pytest.mark.parametrize("of_all", [False, True])
def test_a_fallback_clock_that_runs_out_during_a_pause_is_due_at_resume(ledger: Ledger, of_all: bool) -> None:
    queue(ledger, [Recipient(2, "nhs_app")])
    begin(ledger, 2)
    set_attempts(ledger, {"accepted_at": NOW})
    with ledger.write() as connection:
        if of_all:
            controls.pause_all(connection, "x", None, NOW)
        else:
            controls.pause(connection, BATCH, "x", None, NOW)
    with ledger.read() as connection:
        assert fallbacks.due(connection, NOW + DAY) == {}
    assert fallbacks.sweep(ledger, BATCH, NOW + DAY, FACTS) == fallbacks.Swept(paused=True)
    with ledger.write() as connection:
        controls.resume(connection, BATCH, "x", NOW + DAY)
        controls.resume_all(connection, "x", NOW + DAY)
        assert fallbacks.due(connection, NOW + DAY) == {BATCH: 1}
    assert fallbacks.sweep(ledger, BATCH, NOW + DAY, FACTS) == fallbacks.Swept(queued=1)


# Pausing all


def test_a_pause_of_all_holds_batches_made_later_until_it_is_lifted(ledger: Ledger) -> None:
    queue(ledger, lines(2))
    with ledger.write() as connection:
        first = controls.pause_all(connection, "Dr Grey", "wrong list", NOW)
        assert first == (Pause(NOW, "Dr Grey", "wrong list", of_all=True), True)
        assert controls.pause_all(connection, "Dr White", None, LATER) == (first.pause, False)
    queue(ledger, lines(2, start=10), batch="covid")
    assert (_lets(ledger), _lets(ledger, "covid")) == ((False, False), (False, False))
    assert _shown(ledger) == "Scheduled (paused)"
    with ledger.write() as connection:
        assert controls.standing(connection, "covid") == first.pause
        assert controls.resume_all(connection, "Dr White", LATER) == first.pause
        assert controls.resume_all(connection, "Dr White", LATER) is None
    assert (_lets(ledger), _lets(ledger, "covid")) == ((True, True), (True, True))
    assert [entry[:3] for entry in _actions(ledger)] == [
        ("Dr Grey", "pause_all", None),
        ("Dr White", "resume_all", None),
    ]


def test_each_of_the_two_pauses_is_lifted_by_itself(ledger: Ledger) -> None:
    queue(ledger, lines(2))
    with ledger.write() as connection:
        controls.pause(connection, BATCH, "x", None, NOW)
        controls.pause_all(connection, "x", None, NOW)
        controls.resume_all(connection, "x", NOW)
        assert controls.paused_by_themselves(connection) == [BATCH]
    assert _lets(ledger) == (False, False)
    with ledger.write() as connection:
        controls.pause_all(connection, "x", None, NOW)
        assert controls.resume(connection, BATCH, "x", NOW) is not None
        assert controls.resume(connection, BATCH, "x", NOW) is None
    assert _lets(ledger) == (False, False)


# Cancelling


def test_what_is_not_begun_is_cancelled_and_the_rest_keeps_its_course(ledger: Ledger) -> None:
    queue(ledger, [*lines(4), Recipient(9, held_back=True)])
    begin(ledger, 2, 3)
    set_attempts(ledger, {"accepted_at": NOW}, line=2)
    assert _cancel(ledger) == Cancelled(NOW, "Dr Grey", with_fallbacks=False, new=True, messages=2)
    assert _figures(ledger) == {"awaiting": 2, "cancelled": 2, "held_back": 1}
    assert _shown(ledger) == "Cancelled"
    assert attempt_rows(ledger, "cancelled_at") == [(None,), (None,), (NOW,), (NOW,), (None,)]
    again = _cancel(ledger, by="Dr White", now=LATER)
    assert again == Cancelled(NOW, "Dr Grey", with_fallbacks=False, new=False)
    assert len(_actions(ledger)) == 1


def test_a_cancelled_batch_can_be_neither_resumed_nor_approved_nor_queued(ledger: Ledger) -> None:
    queue(ledger, lines(2))
    approve(ledger, plan=LATER_PLAN)
    _cancel(ledger)
    with ledger.read() as connection:
        assert due.ready_to_send(connection) == []
    with ledger.write() as connection, pytest.raises(Refused, match="is cancelled, and that is final"):
        controls.resume(connection, BATCH, "x", NOW)
    with ledger.write() as connection, pytest.raises(Refused, match="is cancelled"):
        batches.approve(connection, BATCH, "x", LATER_PLAN, NOW)
    with pytest.raises(Refused, match="is cancelled"):
        outbox.write(ledger, BATCH, LATER_PLAN, rows(lines(3)), NOW)


def test_a_batch_that_was_not_approved_is_cancelled_and_stays_so(ledger: Ledger) -> None:
    with ledger.write() as connection:
        batches.register(connection, submission(), NOW)
        batches.record_plan(connection, BATCH, PLAN, {}, NOW)
    assert _cancel(ledger).new
    plan = {"recipients": {"sms": 3, "email": 1}, "held_back": 1}
    assert _figures(ledger, plan) == {"cancelled": 3, "held_back": 1}
    with ledger.write() as connection, pytest.raises(Refused, match="cancelled: submit it under a new"):
        batches.approve(connection, BATCH, "x", None, NOW)
    with ledger.write() as connection, pytest.raises(Refused, match="cancelled: submit this one under a new"):
        batches.register(connection, submission(cohort_sha256="another"), NOW)


def test_the_cohort_of_a_cancelled_batch_may_be_submitted_under_a_new_id(ledger: Ledger) -> None:
    queue(ledger, lines(2))
    _cancel(ledger)
    with ledger.write() as connection:
        again = submission("flu-again", cohort_sha256=f"sha of {BATCH}")
        assert batches.register(connection, again, NOW) == "new"


def test_a_pause_holds_a_cancelled_batch_until_it_is_resumed(ledger: Ledger) -> None:
    queue(ledger, [Recipient(2, "nhs_app")])
    begin(ledger, 2)
    set_attempts(ledger, {"accepted_at": NOW})
    with ledger.write() as connection:
        controls.pause(connection, BATCH, "Dr Grey", None, NOW)
    _cancel(ledger)
    assert _shown(ledger) == "Cancelled (paused)"
    assert fallbacks.sweep(ledger, BATCH, NOW + DAY, FACTS) == fallbacks.Swept(paused=True)
    with ledger.write() as connection:
        assert controls.resume(connection, BATCH, "Dr Grey", NOW) is not None
    assert _shown(ledger) == "Cancelled"
    assert _lets(ledger) == (False, True)
    assert fallbacks.sweep(ledger, BATCH, NOW + DAY, FACTS) == fallbacks.Swept(queued=1)


def _app_messages(ledger: Ledger) -> None:
    """Line 2 has its fallback queued, line 3 has it being sent, line 4's clock runs."""
    queue(ledger, lines(3, "nhs_app"))
    begin(ledger, 2, 3, 4)
    set_attempts(ledger, {"accepted_at": NOW})
    set_attempts(ledger, {"accepted_at": LATER}, line=4)
    fallbacks.sweep(ledger, BATCH, NOW + DAY, FACTS)
    begin(ledger, 3)


def test_cancelled_with_its_fallbacks_nothing_more_follows(ledger: Ledger) -> None:
    _app_messages(ledger)
    done = _cancel(ledger, with_fallbacks=True, now=NOW + DAY)
    assert done == Cancelled(NOW + DAY, "Dr Grey", with_fallbacks=True, new=True, fallbacks=1)
    assert _lets(ledger) == (False, False)
    ended = ("line", "step", "fallback_at", "no_fallback_at", "no_fallback_because")
    assert attempt_rows(ledger, *ended) == [
        (2, "primary", None, NOW + DAY, "cancelled"),
        (3, "primary", NOW + DAY, None, None),
        (3, "fallback", None, None, None),
        (4, "primary", None, None, None),
    ]
    assert _figures(ledger) == {"failed": 1, "awaiting": 2}
    assert fallbacks.sweep(ledger, BATCH, LATER + DAY, FACTS) == fallbacks.Swept(against={"cancelled": 1})
    assert _figures(ledger) == {"failed": 2, "awaiting": 1}
    assert fallbacks.sweep(ledger, BATCH, LATER + 2 * DAY, FACTS) == fallbacks.Swept()


def test_the_fallbacks_can_be_cancelled_afterwards(ledger: Ledger) -> None:
    _app_messages(ledger)
    assert _cancel(ledger, now=NOW + DAY).fallbacks == 0
    assert _lets(ledger) == (False, True)
    done = _cancel(ledger, by="Dr White", with_fallbacks=True, now=LATER + DAY)
    assert done == Cancelled(NOW + DAY, "Dr Grey", with_fallbacks=True, new=True, fallbacks=1)
    assert [entry[:2] for entry in _actions(ledger)] == [("Dr Grey", "cancel"), ("Dr White", "cancel")]
    assert not _cancel(ledger, with_fallbacks=True).new


def test_what_is_open_of_a_cancelled_batch_is_still_finished(ledger: Ledger) -> None:
    queue(ledger, lines(2))
    with ledger.write() as connection:
        claimed = chunks.claim(
            connection,
            BATCH,
            "primary",
            "sms",
            provider="simulator",
            number=7,
            limit=1,
            owner="x",
            lease_until=NOW,
            now=NOW,
        )
    assert claimed is not None
    _cancel(ledger)
    with ledger.read() as connection:
        assert due.ready_to_send(connection) == [BATCH]
    with ledger.write() as connection:
        chunks.settle(connection, claimed.chunk, [], NOW)
    with ledger.read() as connection:
        assert due.ready_to_send(connection) == []
    assert _figures(ledger) == {"awaiting": 1, "cancelled": 1}


def test_the_pause_of_the_breaker_sets_what_it_counts_from(ledger: Ledger) -> None:
    queue(ledger, lines(1))
    with ledger.write() as connection:
        controls.pause(connection, BATCH, BREAKER, "too many", NOW)
        controls.resume(connection, BATCH, "Dr Grey", LATER)
        assert batches.get(connection, BATCH).breaker_from == LATER
        controls.pause(connection, BATCH, "Dr Grey", None, LATER)
        controls.resume(connection, BATCH, "Dr Grey", NOW + DAY)
        assert batches.get(connection, BATCH).breaker_from == LATER


def test_an_unknown_batch_is_refused(ledger: Ledger) -> None:
    for control in (
        lambda c: controls.pause(c, "nope", "x", None, NOW),
        lambda c: controls.resume(c, "nope", "x", NOW),
        lambda c: controls.cancel(c, "nope", "x", NOW),
    ):
        with ledger.write() as connection, pytest.raises(Refused, match="there is no batch nope"):
            control(connection)
    with ledger.read() as connection:
        assert connection.scalar(sa.text("SELECT count(*) FROM audit")) == 0


def test_a_restored_ledger_may_have_forgotten_something_until_a_person_lets_all_go_on(ledger: Ledger) -> None:
    def forgotten() -> bool:
        with ledger.read() as connection:
            return controls.may_have_forgotten(connection)

    def do(decide: Callable[[sa.Connection], object]) -> None:
        with ledger.write() as connection:
            decide(connection)

    do(lambda connection: controls.pause_all(connection, "Dr Grey", None, NOW))
    assert not forgotten()
    do(lambda connection: controls.resume_all(connection, "Dr Grey", NOW))
    do(lambda connection: controls.hold(connection, "it was restored", NOW))
    assert forgotten()
    do(lambda connection: controls.release(connection, "Dr Grey", NOW))
    assert forgotten()
    do(lambda connection: controls.resume_all(connection, "Dr Grey", NOW))
    assert not forgotten()
