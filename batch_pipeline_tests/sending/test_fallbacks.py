from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
import sqlalchemy as sa

from batch_pipeline.ledger import due as dues
from batch_pipeline.ledger import history, outbox
from batch_pipeline.ledger.engine import Ledger
from batch_pipeline.ledger.tables import batches, patient_marks
from batch_pipeline.providers.protocol import Receipt
from batch_pipeline.rules import policy
from batch_pipeline.sending import fallbacks, receipts
from batch_pipeline.sending.dispatcher import Dispatched
from batch_pipeline.sending.fallbacks import FallbackFacts, Swept
from batch_pipeline_tests.ledger.given import (
    BATCH,
    HASHER,
    LATER_PLAN,
    NOW,
    Recipient,
    approve,
    attempt_rows,
    begin,
    lines,
    mobile,
    patient,
    query_plans,
    queue,
    rows,
    set_attempts,
)
from batch_pipeline_tests.ledgers import on_sqlite_alone
from batch_pipeline_tests.sending.worlds import World

SECOND = timedelta(seconds=1)
HOUR = timedelta(hours=1)
DAY = timedelta(hours=24)
FACTS = FallbackFacts("simulator")


def _accepted(ledger: Ledger, *recipients: Recipient, at: datetime = NOW) -> Ledger:
    queue(ledger, recipients or [Recipient(2, "nhs_app")])
    begin(ledger, *(recipient.line for recipient in recipients or [Recipient(2)]), at=at)
    set_attempts(ledger, {"accepted_at": at})
    return ledger


def _due(ledger: Ledger, now: datetime) -> dict[str, int]:
    with ledger.read() as connection:
        return fallbacks.due(connection, now)


# When


LONDON = ZoneInfo("Europe/London")
ACCEPTED = {
    "an ordinary day": datetime(2026, 10, 1, 9, tzinfo=LONDON),
    "over the clock change of spring": datetime(2026, 3, 28, 23, 30, tzinfo=LONDON),
    "over the clock change of autumn": datetime(2026, 10, 24, 23, 30, tzinfo=LONDON),
    "in the hour that comes twice": datetime(2026, 10, 25, 1, 30, tzinfo=LONDON),
}


@pytest.mark.parametrize("accepted", ACCEPTED.values(), ids=ACCEPTED)
@pytest.mark.parametrize(("questionnaire", "hours"), [(None, 24), ("another", 24), ("bp_4_day", 3), ("bp_7_day", 3)])
@pytest.mark.parametrize("late", [timedelta(0), SECOND])
def test_the_window_is_over_after_so_many_hours_to_the_second(
    ledger: Ledger, accepted: datetime, questionnaire: str | None, hours: int, late: timedelta
) -> None:
    stamped = policy.fallback_window("nhs_app", questionnaire, accepted)
    assert stamped is not None
    at = accepted.astimezone(NOW.tzinfo)
    _accepted(ledger, Recipient(2, "nhs_app", window=stamped[1]), at=at)
    over = at + timedelta(hours=hours)
    assert _due(ledger, over - SECOND) == {}
    assert fallbacks.sweep(ledger, BATCH, over - SECOND, FACTS) == Swept(queued=0)
    assert _due(ledger, over + late) == {BATCH: 1}
    assert fallbacks.sweep(ledger, BATCH, over + late, FACTS) == Swept(queued=1)


@pytest.mark.parametrize("kind", ["rejected", "permanent", "technical", "refused"])
def test_a_failed_app_message_falls_back_at_once(ledger: Ledger, kind: str) -> None:
    _accepted(ledger)
    set_attempts(ledger, {"failed_at": NOW + SECOND, "failure_kind": kind})
    assert _due(ledger, NOW) == {}
    assert fallbacks.sweep(ledger, BATCH, NOW + SECOND, FACTS).queued == 1


def test_one_refused_before_it_was_accepted_falls_back_at_once(ledger: Ledger) -> None:
    _accepted(ledger)
    set_attempts(ledger, {"accepted_at": None, "failed_at": NOW, "failure_kind": "refused"})
    assert fallbacks.sweep(ledger, BATCH, NOW, FACTS).queued == 1


@pytest.mark.parametrize(
    "state",
    [
        {"read_at": NOW},
        {"read_at": NOW, "failed_at": NOW},
        {"accepted_at": None},
        {"accepted_at": None, "unconfirmed_at": NOW},
        {"fallback_after": None},
        {"fallback_after": None, "failed_at": NOW},
        {"accepted_at": None, "chunk": None},
    ],
)
def test_no_clock_runs_for_one_read_not_accepted_or_without_a_window(ledger: Ledger, state: dict[str, Any]) -> None:
    _accepted(ledger)
    set_attempts(ledger, state)
    assert _due(ledger, NOW + 100 * DAY) == {}
    assert fallbacks.sweep(ledger, BATCH, NOW + 100 * DAY, FACTS) == Swept()


def test_delivered_by_the_app_is_still_unread(ledger: Ledger) -> None:
    _accepted(ledger)
    set_attempts(ledger, {"delivered_at": NOW})
    assert _due(ledger, NOW + DAY) == {BATCH: 1}


@pytest.mark.parametrize(
    ("accepted_at", "due_at"),
    [(NOW, NOW + DAY), (None, NOW + SECOND + DAY)],
    ids=["accepted", "only the failure known"],
)
def test_delivered_goes_before_failed_so_that_the_clock_runs(
    ledger: Ledger, accepted_at: datetime | None, due_at: datetime
) -> None:
    _accepted(ledger)
    told = {"delivered_at": NOW + 2 * SECOND, "failed_at": NOW + SECOND, "failure_kind": "permanent"}
    set_attempts(ledger, {"accepted_at": accepted_at, **told})
    assert _due(ledger, due_at - SECOND) == {}
    assert _due(ledger, due_at) == {BATCH: 1}


@pytest.mark.parametrize(
    "state",
    [
        {"accepted_at": None, "unconfirmed_at": NOW},
        {"accepted_at": None, "unconfirmed_at": NOW, "delivered_at": NOW},
        {"fallback_after": None, "delivered_at": NOW},
        {"fallback_after": None, "failed_at": NOW},
    ],
)
def test_a_batch_whose_app_messages_can_fall_back_no_more_gets_its_final_report(
    ledger: Ledger, state: dict[str, Any]
) -> None:
    _accepted(ledger)
    with ledger.read() as connection:
        assert dues.ended_unreported(connection) == []
    set_attempts(ledger, state)
    with ledger.read() as connection:
        assert dues.ended_unreported(connection) == [BATCH]


@pytest.mark.parametrize("path", ["sms", "email"])
def test_sms_and_email_have_no_fallback(ledger: Ledger, path: str) -> None:
    _accepted(ledger, Recipient(2, path))
    set_attempts(ledger, {"failed_at": NOW, "failure_kind": "permanent"})
    assert _due(ledger, NOW + DAY) == {}


# What


def test_the_sms_carries_the_same_text_to_the_number_known(ledger: Ledger) -> None:
    _accepted(ledger)
    assert fallbacks.sweep(ledger, BATCH, NOW + DAY, FACTS) == Swept(queued=1)
    columns = ("step", "channel", "reference", "address", "text", "address_hash", "fragments", "policy", "queued_at")
    assert attempt_rows(ledger, *columns)[1] == (
        "fallback",
        "sms",
        f"{BATCH}:2:fallback",
        mobile(2),
        "Your flu jab is due.",
        HASHER.hash(mobile(2)),
        1,
        "unread",
        NOW + DAY,
    )
    assert attempt_rows(ledger, "fallback_at", "no_fallback_at", step="primary") == [(NOW + DAY, None)]


def test_sweeping_again_queues_nobody_twice(ledger: Ledger) -> None:
    _accepted(ledger)
    fallbacks.sweep(ledger, BATCH, NOW + DAY, FACTS)
    queued = attempt_rows(ledger, "step", "reference", "address", "text", "queued_at", "fallback_at")
    assert _due(ledger, NOW + 2 * DAY) == {}
    assert fallbacks.sweep(ledger, BATCH, NOW + DAY, FACTS) == Swept(queued=1)
    assert attempt_rows(ledger, "step", "reference", "address", "text", "queued_at", "fallback_at") == queued


def test_sweeping_again_leaves_what_is_begun(ledger: Ledger) -> None:
    _accepted(ledger)
    fallbacks.sweep(ledger, BATCH, NOW + DAY, FACTS)
    begin(ledger, 2, at=NOW + DAY)
    begun = attempt_rows(ledger)
    opted_out = replace(FACTS, opted_out={patient(2)})
    assert fallbacks.sweep(ledger, BATCH, NOW + 2 * DAY, opted_out) == Swept()
    assert attempt_rows(ledger) == begun


@pytest.mark.parametrize("reason", ["opted_out", "deceased", "likely_to_fail"])
def test_what_waited_through_a_pause_is_decided_by_what_is_known_then(ledger: Ledger, reason: str) -> None:
    _accepted(ledger)
    assert fallbacks.sweep(ledger, BATCH, NOW + DAY, FACTS) == Swept(queued=1)
    known = HASHER.hash(mobile(2)) if reason == "likely_to_fail" else patient(2)
    later = replace(FACTS, **{reason: {known}})
    assert fallbacks.sweep(ledger, BATCH, NOW + 5 * DAY, later) == Swept(against={reason: 1})
    assert attempt_rows(ledger, "step", "fallback_at", "no_fallback_at", "no_fallback_because") == [
        ("primary", None, NOW + 5 * DAY, reason)
    ]


def test_what_waited_for_a_message_that_was_delivered_meanwhile_waits_for_its_clock(ledger: Ledger) -> None:
    _accepted(ledger)
    set_attempts(ledger, {"failed_at": NOW + HOUR, "failure_kind": "temporary"})
    assert fallbacks.sweep(ledger, BATCH, NOW + HOUR, FACTS) == Swept(queued=1)
    set_attempts(ledger, {"delivered_at": NOW + HOUR}, step="primary")
    assert fallbacks.sweep(ledger, BATCH, NOW + 2 * HOUR, FACTS) == Swept()
    assert len(attempt_rows(ledger)) == 1
    assert fallbacks.sweep(ledger, BATCH, NOW + DAY, FACTS) == Swept(queued=1)


@pytest.mark.parametrize(
    ("facts", "state", "reason"),
    [
        ({}, {"fallback_number": None, "sms_text": None}, "no_number"),
        ({"opted_out": {patient(2)}}, {}, "opted_out"),
        ({"deceased": {patient(2)}}, {}, "deceased"),
        ({"likely_to_fail": {HASHER.hash(mobile(2))}}, {}, "likely_to_fail"),
        ({}, {"failed_at": NOW, "failure_code": "CM_PDSV_0112"}, "deceased"),
        ({}, {"failed_at": NOW, "failure_code": "CM_PDSV_0111"}, "deceased"),
        ({}, {"failed_at": NOW, "failure_code": "CM_PDSV_0110"}, "exit_coded"),
        ({}, {"failed_at": NOW, "failure_code": "CM_PDSV_0008"}, "invalidated"),
        ({"opted_out": {patient(2)}}, {"fallback_number": None}, "opted_out"),
        ({"opted_out": {patient(2)}}, {"failed_at": NOW, "failure_code": "CM_PDSV_0112"}, "deceased"),
        ({"opted_out": {patient(3)}, "likely_to_fail": {HASHER.hash(mobile(3))}}, {}, None),
        ({}, {"failed_at": NOW, "failure_code": "CM_SUPE_0001"}, None),
    ],
)
def test_who_cannot_be_texted_ends_there_with_the_reason(
    ledger: Ledger, facts: dict[str, Any], state: dict[str, Any], reason: str | None
) -> None:
    _accepted(ledger)
    set_attempts(ledger, state)
    swept = fallbacks.sweep(ledger, BATCH, NOW + DAY, FallbackFacts("simulator", **facts))
    assert swept == (Swept(queued=1) if reason is None else Swept(against={reason: 1}))
    ended = attempt_rows(ledger, "no_fallback_at", "no_fallback_because", step="primary")
    assert ended == [(None, None) if reason is None else (NOW + DAY, reason)]
    assert _due(ledger, NOW + 2 * DAY) == {}


def test_a_patient_marked_in_another_batch_is_not_texted(ledger: Ledger) -> None:
    _accepted(ledger)
    with ledger.write() as connection:
        mark = {"patient": patient(2), "mark": "deceased", "marked_at": NOW, "source": "X"}
        connection.execute(sa.insert(patient_marks).values(mark))
    assert fallbacks.sweep(ledger, BATCH, NOW + DAY, FACTS) == Swept(against={"deceased": 1})


def test_a_refusal_that_says_dead_marks_the_patient(ledger: Ledger) -> None:
    _accepted(ledger)
    set_attempts(ledger, {"failed_at": NOW, "failure_kind": "refused", "failure_code": "CM_PDSV_0112"})
    fallbacks.sweep(ledger, BATCH, NOW, FACTS)
    with ledger.read() as connection:
        assert history.marked(connection) == {patient(2): "deceased"}


def test_those_who_have_no_number_end_at_their_deadline_and_not_before(ledger: Ledger) -> None:
    _accepted(ledger, Recipient(2, "nhs_app", number=None))
    assert fallbacks.sweep(ledger, BATCH, NOW + DAY - SECOND, FACTS) == Swept()
    assert fallbacks.sweep(ledger, BATCH, NOW + DAY, FACTS) == Swept(against={"no_number": 1})


def test_many_are_decided_in_slices(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fallbacks, "AT_ONCE", 3)
    given = [Recipient(line, "nhs_app", number=None if line % 2 else "") for line in range(2, 12)]
    _accepted(ledger, *given)
    assert fallbacks.sweep(ledger, BATCH, NOW + DAY, FACTS) == Swept(5, {"no_number": 5})
    assert fallbacks.sweep(ledger, BATCH, NOW + DAY, FACTS) == Swept(5)
    opted_out = replace(FACTS, opted_out={patient(2), patient(10)})
    assert fallbacks.sweep(ledger, BATCH, NOW + DAY, opted_out) == Swept(3, {"opted_out": 2})


def _set_batch(ledger: Ledger, **values: Any) -> None:
    with ledger.write() as connection:
        connection.execute(sa.update(batches).values(**values))


def test_a_paused_batch_waits_and_a_cancelled_one_keeps_its_course(ledger: Ledger) -> None:
    _accepted(ledger)
    _set_batch(ledger, paused_at=NOW)
    assert _due(ledger, NOW + DAY) == {}
    assert fallbacks.sweep(ledger, BATCH, NOW + DAY, FACTS) == Swept(paused=True)
    _set_batch(ledger, paused_at=None, cancelled_at=NOW)
    assert _due(ledger, NOW + DAY) == {BATCH: 1}
    assert fallbacks.sweep(ledger, BATCH, NOW + DAY, FACTS) == Swept(queued=1)


# From App to SMS


@pytest.fixture
def world(folder: Path) -> World:
    """Five patients with the App, who got their message and didn't read it."""
    made = World(folder, recipients=lines(5, "nhs_app"))
    made.process()
    return made


def _read(world: World, line: int, at: datetime) -> None:
    receipts.store(world.ledger, "simulator", [Receipt(f"read {line}", f"{BATCH}:{line}:primary", "read", at)], at)
    receipts.fold(world.ledger, at)


def _sweep_and_send(world: World, now: datetime = NOW + DAY) -> Dispatched:
    fallbacks.sweep(world.ledger, BATCH, now, FACTS)
    return world.process(step="fallback", now=now)


def test_each_unread_message_falls_back_once(world: World) -> None:
    _read(world, 3, NOW + DAY - SECOND)
    assert _sweep_and_send(world) == Dispatched(accepted=4)
    assert _sweep_and_send(world, NOW + 2 * DAY) == Dispatched()
    texted = {reference for reference in world.journal() if reference.endswith("fallback")}
    assert texted == {f"{BATCH}:{line}:fallback" for line in (2, 4, 5, 6)}
    assert set(world.journal().values()) == {1}


def test_a_read_after_the_sms_is_kept_beside_it(world: World) -> None:
    _sweep_and_send(world)
    _read(world, 3, NOW + DAY + SECOND)
    assert attempt_rows(world.ledger, "step", "accepted_at", "read_at", line=3) == [
        ("primary", NOW, NOW + DAY + SECOND),
        ("fallback", NOW + DAY, None),
    ]


def test_a_read_between_queueing_and_sending_takes_the_sms_back(world: World) -> None:
    fallbacks.sweep(world.ledger, BATCH, NOW + DAY, FACTS)
    _read(world, 3, NOW + DAY)
    assert world.process(step="fallback", now=NOW + DAY) == Dispatched(accepted=4)
    assert attempt_rows(world.ledger, "step", "fallback_at", "no_fallback_at", line=3) == [("primary", None, None)]


def test_a_read_in_the_midst_of_sending_takes_the_sms_back(folder: Path) -> None:
    world = World(folder, recipients=lines(6, "nhs_app"), chunk=2)
    world.process()
    fallbacks.sweep(world.ledger, BATCH, NOW + DAY, FACTS)

    def reads(moment: str) -> None:
        if moment == "before post" and not attempt_rows(world.ledger, "id", line=6, read_at=NOW + DAY):
            _read(world, 6, NOW + DAY)

    assert world.process(reads, step="fallback", now=NOW + DAY) == Dispatched(accepted=5)
    assert [row[0] for row in attempt_rows(world.ledger, "step", line=6)] == ["primary"]


def test_a_read_after_no_fallback_could_go_is_kept(world: World) -> None:
    everybody = {patient(line) for line in range(2, 7)}
    fallbacks.sweep(world.ledger, BATCH, NOW + DAY, FallbackFacts("simulator", opted_out=everybody))
    _read(world, 3, NOW + 2 * DAY)
    assert attempt_rows(world.ledger, "read_at", "no_fallback_at", line=3) == [(NOW + 2 * DAY, NOW + DAY)]


def test_the_fallbacks_of_a_cancelled_batch_still_go(world: World) -> None:
    _set_batch(world.ledger, cancelled_at=NOW)
    assert _sweep_and_send(world) == Dispatched(accepted=5)


def test_a_plan_made_between_dispatch_and_fallback_changes_nothing_for_those_sent_to(world: World) -> None:
    approve(world.ledger, plan=LATER_PLAN)
    plan = [Recipient(2, "sms"), Recipient(3, "nhs_app", text="Another"), Recipient(20), Recipient(21, "nhs_app")]
    written = outbox.write(world.ledger, BATCH, LATER_PLAN, rows(plan), NOW)
    assert written == outbox.OutboxWritten(added=2, moved=0, removed=0, unchanged=2)
    assert _sweep_and_send(world) == Dispatched(accepted=5)
    assert world.process(now=NOW + DAY) == Dispatched(accepted=2)
    approve(world.ledger, plan="d4" * 32)
    outbox.write(world.ledger, BATCH, "d4" * 32, rows(plan), NOW)
    assert _sweep_and_send(world) == Dispatched()
    assert world.journal() == dict.fromkeys(world.references(), 1)


@on_sqlite_alone
def test_looking_for_what_is_due_goes_by_the_clock_and_not_through_the_messages(ledger: Ledger) -> None:
    for ask in (
        lambda connection: fallbacks.due(connection, NOW),
        lambda connection: connection.execute(fallbacks._candidates(BATCH, NOW)),
    ):
        plan = query_plans(ledger, ask)
        assert any("INDEX ix_attempts_fallback_clock (<expr><?)" in line for line in plan), plan
        assert not any("SCAN attempts" in line for line in plan), plan
