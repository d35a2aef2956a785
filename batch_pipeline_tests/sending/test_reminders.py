"""Reminders: each once, on its day, to who hasn't answered, by the path that reached the patient."""

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from time import sleep
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import given, settings
from hypothesis import strategies as st

from batch_pipeline.ledger import controls, due, figures, links, records, reminders, unconfirmed
from batch_pipeline.ledger.engine import Ledger
from batch_pipeline.ledger.responses import Change, keep
from batch_pipeline.ledger.tables import attempts, batches, chunks
from batch_pipeline.rules.fragments import sms_fragments
from batch_pipeline.rules.states import shown_status
from batch_pipeline.sending import reminders as sending
from batch_pipeline.sending.dispatcher import Dispatched
from batch_pipeline.sending.reminders import ReminderFacts, Swept
from batch_pipeline_tests.ledger.given import (
    BATCH,
    HASHER,
    NOW,
    Recipient,
    approve,
    attempt_rows,
    begin,
    lines,
    mobile,
    open_ledger,
    patient,
    query_plans,
    queue,
    set_attempts,
)
from batch_pipeline_tests.ledger.test_links import KEYS, rows, token_hash
from batch_pipeline_tests.ledgers import on_postgresql_alone, on_sqlite_alone
from batch_pipeline_tests.sending.worlds import World

SECOND, HOUR, DAY = timedelta(seconds=1), timedelta(hours=1), timedelta(days=1)
FACTS = ReminderFacts(dict.fromkeys(("email", "nhs_app", "sms"), "simulator"))


def _sent(ledger: Ledger, *recipients: Recipient, questionnaire: str = "smoking") -> Ledger:
    """Their message was taken, and delivered where that is told."""
    wanted = [replace(each, reminder_day=each.reminder_day or 3) for each in recipients or lines(1)]
    approve(ledger, questionnaire=questionnaire, message_type="questionnaire")
    links.write(ledger, BATCH, "questionnaire", KEYS, rows(*(each.line for each in wanted)), NOW)
    queue(ledger, wanted, questionnaire=questionnaire, message_type="questionnaire")
    begin(ledger, *(each.line for each in wanted))
    set_attempts(ledger, {"accepted_at": NOW})
    return ledger


def _sweep(ledger: Ledger, now: datetime, facts: ReminderFacts = FACTS) -> Swept:
    return sending.sweep(ledger, BATCH, now, facts)


def _due(ledger: Ledger, now: datetime) -> list[str]:
    with ledger.read() as connection:
        return due.with_reminders(connection, now)


def _answer(ledger: Ledger, line: int, at: datetime, *, completes: bool) -> None:
    """As the pages do: what was answered, then that this is all."""
    changes = [Change(json.dumps({}), completes=False, findings=())]
    changes += [Change(None, completes=True, findings=())] * completes
    for change in changes:
        with ledger.write() as connection:
            assert keep(connection, token_hash(line), lambda *_, it=change: it, at) == change


def _steps(ledger: Ledger, line: int = 2) -> list[str]:
    return sorted(step for (step,) in attempt_rows(ledger, "step", line=line))


# When ----------------------------------------------------------------------------------------------------------------


def test_on_day_3_and_6_and_never_again(ledger: Ledger) -> None:
    _sent(ledger)
    for day, queued in ((1, 0), (3, 1), (4, 0), (6, 1), (7, 0), (30, 0)):
        now = NOW + day * DAY
        assert _due(ledger, now) == [BATCH] * queued
        assert _sweep(ledger, now) == Swept(queued=queued)
        begin(ledger, 2, at=now, step=f"reminder_{day}")
        set_attempts(ledger, {"accepted_at": now}, step=f"reminder_{day}")
    assert _steps(ledger) == ["primary", "reminder_3", "reminder_6"]


@pytest.mark.parametrize("late", [-SECOND, timedelta(0), 12 * HOUR, 12 * HOUR + SECOND])
def test_from_its_moment_on_for_half_a_day(ledger: Ledger, late: timedelta) -> None:
    _sent(ledger)
    too_late = late > 12 * HOUR
    assert _due(ledger, NOW + 3 * DAY + late) == ([] if late < timedelta(0) else [BATCH])
    swept = _sweep(ledger, NOW + 3 * DAY + late)
    assert swept == (Swept(against={"too_late": 1}) if too_late else Swept(queued=int(late >= timedelta(0))))
    assert _sweep(ledger, NOW + 6 * DAY).queued == 1


def test_after_days_without_a_sweep_only_the_last_one_goes(ledger: Ledger) -> None:
    _sent(ledger, Recipient(2, reminder_day=1), questionnaire="bp_7_day")
    assert _sweep(ledger, NOW + 5 * DAY + HOUR) == Swept(queued=1)
    assert _steps(ledger) == ["primary", "reminder_5"]


@pytest.mark.parametrize("since", ["accepted_at", "delivered_at", "read_at"])
def test_the_clock_runs_from_the_first_that_is_told(ledger: Ledger, since: str) -> None:
    _sent(ledger)
    set_attempts(ledger, {"accepted_at": None} | {since: NOW})
    assert _due(ledger, NOW + 3 * DAY - SECOND) == []
    assert _sweep(ledger, NOW + 3 * DAY).queued == 1


@pytest.mark.parametrize("state", [{"accepted_at": None}, {"reminder_day": None}])
def test_nothing_is_due_of_what_was_not_sent_or_asks_nothing(ledger: Ledger, state: dict[str, Any]) -> None:
    _sent(ledger)
    set_attempts(ledger, state)
    assert _due(ledger, NOW + 3 * DAY) == []
    assert _sweep(ledger, NOW + 3 * DAY) == Swept()


@settings(max_examples=40, deadline=None)
@given(
    hours=st.lists(st.integers(0, 24 * 10), max_size=14, unique=True),
    answers=st.lists(st.integers(0, 24 * 9), max_size=3, unique=True),
    completed=st.none() | st.integers(0, 24 * 9),
    bp=st.booleans(),
)
def test_whenever_it_is_swept(
    tmp_path_factory: pytest.TempPathFactory, hours: list[int], answers: list[int], completed: int | None, *, bp: bool
) -> None:
    """By the words of the issue alone: each once, on its day, apart, and to nobody who has answered."""
    ledger = open_ledger(tmp_path_factory.mktemp("ledger"))
    questionnaire, first_day = ("bp_7_day", 1) if bp else ("smoking", 3)
    _sent(ledger, Recipient(2, reminder_day=first_day), questionnaire=questionnaire)
    days = range(1, 9) if bp else (3, 6)
    life = 24 * (9 if bp else 7)
    given_at: list[int] = [*answers, *([] if completed is None else [completed])]
    first = min(given_at, default=None)
    ends = life if first is None or not bp else min(life, first + 24 * 7)
    events = [*((hour, "sweep") for hour in hours), *((hour, "answer") for hour in answers)]
    events += [] if completed is None else [(completed, "complete")]
    sent: dict[int, int] = {}
    answered: list[int] = []
    for hour, what in sorted(events):
        if what == "sweep":
            _sweep(ledger, NOW + hour * HOUR)
            new = {int(step[-1]) for step in _steps(ledger) if step.startswith("reminder")} - sent.keys()
            assert len(new) <= 1
            sent |= dict.fromkeys(new, hour)
            begin(ledger, 2, at=NOW + hour * HOUR, step="any")
        elif hour < ends and (completed is None or hour <= completed):
            _answer(ledger, 2, NOW + hour * HOUR, completes=what == "complete")
            answered.append(hour)
    for day, hour in sent.items():
        assert 0 <= hour - 24 * day <= 12
        assert completed is None or hour <= completed
        assert hour + 1 <= ends
        assert not bp or not any(24 * (day - 1) < each <= hour and each < hour for each in answered)
    assert all(abs(one - other) >= 12 for one in sent.values() for other in sent.values() if one != other)
    for day in days:  # whoever hasn't answered, and whose day was swept in time, isn't left out
        in_time = [hour for hour in hours if 0 <= hour - 24 * day <= 12]
        if in_time and not answered and min(in_time) + 1 <= ends:
            assert day in sent


# Who -----------------------------------------------------------------------------------------------------------------


def test_who_has_answered_is_not_reminded_and_who_has_begun_is(ledger: Ledger) -> None:
    _sent(ledger, *lines(3))
    _answer(ledger, 2, NOW + HOUR, completes=True)
    _answer(ledger, 3, NOW + HOUR, completes=False)
    assert _sweep(ledger, NOW + 3 * DAY) == Swept(queued=2, against={"answered": 1})
    assert [_steps(ledger, line)[1:] for line in (2, 3, 4)] == [[], ["reminder_3"], ["reminder_3"]]
    assert attempt_rows(ledger, "reminder_day", step="primary") == [(None,), (6,), (6,)]


def test_blood_pressure_daily_to_who_gave_nothing_since_the_day_before(ledger: Ledger) -> None:
    _sent(ledger, *lines(2, reminder_day=1), questionnaire="bp_4_day")
    _answer(ledger, 2, NOW + 20 * HOUR, completes=False)
    assert _sweep(ledger, NOW + DAY) == Swept(queued=1, against={"answered_today": 1})
    assert _sweep(ledger, NOW + DAY) == Swept(queued=1)  # the same one, decided anew
    begin(ledger, 3, at=NOW + DAY, step="reminder_1")
    assert _sweep(ledger, NOW + 2 * DAY) == Swept(queued=2)
    assert [_steps(ledger, line)[1:] for line in (2, 3)] == [["reminder_2"], ["reminder_1", "reminder_2"]]


@pytest.mark.parametrize(
    ("facts", "state", "reason"),
    [
        ({"not_to_be_sent": {"sms": {patient(2)}}}, {}, "not_to_be_sent"),
        ({"not_to_be_sent": {"email": {patient(2)}, "nhs_app": {patient(2)}}}, {}, None),
        ({"not_to_be_sent": {"sms": {patient(3)}}}, {}, None),
        ({"likely_to_fail": {HASHER.hash(mobile(2))}}, {}, "likely_to_fail"),
        ({}, {"text": None}, "no_details"),
        ({}, {"failed_at": NOW, "failure_kind": "permanent"}, "not_reached"),
        ({}, {"timed_out_at": NOW + 3 * DAY}, None),
        ({}, {"accepted_at": None, "failed_at": NOW, "failure_kind": "refused"}, "not_reached"),
    ],
)
def test_who_cannot_be_reminded(
    ledger: Ledger, facts: dict[str, Any], state: dict[str, Any], reason: str | None
) -> None:
    _sent(ledger)
    set_attempts(ledger, state)
    swept = _sweep(ledger, NOW + 3 * DAY, replace(FACTS, **facts))
    assert swept == (Swept(queued=1) if reason is None else Swept(against={reason: 1}))
    assert len(attempt_rows(ledger)) == 1 + (reason is None)


@pytest.mark.parametrize("what", ["link", "batch"])
def test_a_revoked_link_is_not_called_to_mind(ledger: Ledger, what: str) -> None:
    _sent(ledger, *lines(2))
    _sweep(ledger, NOW + 3 * DAY)
    with ledger.write() as connection:
        links.revoke(connection, BATCH, [2] if what == "link" else [], "Dr Grey", NOW + 3 * DAY)
    left = [] if what == "batch" else [(3, "reminder_3")]
    assert [row for row in attempt_rows(ledger, "line", "step") if row[1] != "primary"] == left
    revoked = 2 - len(left)
    assert _sweep(ledger, NOW + 3 * DAY) == Swept(queued=len(left), against={"link_revoked": revoked})


def test_a_locked_link_is_not_called_to_mind_until_it_is_unlocked(ledger: Ledger) -> None:
    _sent(ledger)
    with ledger.write() as connection:
        connection.execute(sa.text("UPDATE links SET locked_at = 1"))
    assert _sweep(ledger, NOW + 3 * DAY) == Swept(against={"link_locked": 1})
    with ledger.write() as connection:
        links.unlock(connection, BATCH, 2, "Dr Grey", NOW + 4 * DAY)
    assert _sweep(ledger, NOW + 6 * DAY) == Swept(queued=1)


def test_a_reminder_makes_the_links_life_no_longer(ledger: Ledger) -> None:
    _sent(ledger)
    _sweep(ledger, NOW + 6 * DAY)
    begin(ledger, 2, at=NOW + 6 * DAY, step="reminder_6")
    with ledger.read() as connection:
        link = links.find(connection, token_hash(2))
    assert link is not None
    assert link.ends_at(NOW + 6 * DAY) == NOW + 7 * DAY


# What ----------------------------------------------------------------------------------------------------------------


TEXTS = {
    "email": ("This is a reminder.\n\nYour flu jab is due.", "Reminder: Your flu jab", 0),
    "nhs_app": ("This is a reminder.\n\nYour flu jab is due.", None, 0),
    "sms": ("Reminder: Your flu jab is due.", None, 1),
}


@pytest.mark.parametrize("path", TEXTS)
def test_by_the_recipients_path(ledger: Ledger, path: str) -> None:
    _sent(ledger, Recipient(2, path))
    assert _sweep(ledger, NOW + 3 * DAY) == Swept(queued=1)
    text, subject, fragments = TEXTS[path]
    found = attempt_rows(
        ledger, "channel", "text", "subject", "fragments", "reference", "queued_at", "policy", step="reminder_3"
    )
    assert found == [(path, text, subject, fragments, f"{BATCH}:2:reminder_3", NOW + 3 * DAY, "days-3-and-6")]
    [first], [again] = (
        attempt_rows(ledger, "address", "nhs_number", "provider", step=step) for step in ("primary", "reminder_3")
    )
    assert first == again
    of_mobile = HASHER.hash(mobile(2)) if path == "sms" else None
    assert attempt_rows(ledger, "address_hash", "fallback_after", step="reminder_3") == [(of_mobile, None)]


@pytest.mark.parametrize(("read", "path"), [(None, "sms"), (NOW + 2 * DAY, "nhs_app")])
def test_to_whom_a_text_followed_by_text_unless_the_app_was_read(
    ledger: Ledger, read: datetime | None, path: str
) -> None:
    _sent(ledger, Recipient(2, "nhs_app"))
    with ledger.write() as connection:
        columns = ("batch", "patient", "line", "nhs_number", "fragments", "address_hash", "queued_at")
        copied = sa.select(
            *(attempts.c[name] for name in columns),
            *map(sa.literal, ("fallback", "sms", "simulator", "a reference")),
            attempts.c.fallback_number,
            attempts.c.sms_text,
        )
        names = [*columns, "step", "channel", "provider", "reference", "address", "text"]
        connection.execute(sa.insert(attempts).from_select(names, copied, include_defaults=False))
    set_attempts(ledger, {"begun_at": NOW + DAY, "accepted_at": NOW + DAY}, step="fallback")
    set_attempts(ledger, {"read_at": read}, step="primary")
    assert _sweep(ledger, NOW + 3 * DAY) == Swept(queued=1)
    address = {"sms": mobile(2), "nhs_app": attempt_rows(ledger, "nhs_number", step="primary")[0][0]}
    assert attempt_rows(ledger, "channel", "address", step="reminder_3") == [(path, address[path])]


def test_a_long_text_takes_what_its_reminder_takes(ledger: Ledger) -> None:
    text = "x" * 155
    _sent(ledger, Recipient(2, text=text))
    _sweep(ledger, NOW + 3 * DAY)
    assert sms_fragments(text).parts == 1
    assert attempt_rows(ledger, "fragments", step="reminder_3") == [(2,)]


# What people decide --------------------------------------------------------------------------------------------------


def test_a_paused_batchs_reminders_wait(ledger: Ledger) -> None:
    _sent(ledger)
    with ledger.write() as connection:
        controls.pause(connection, BATCH, "Dr Grey", None, NOW)
    assert _due(ledger, NOW + 3 * DAY) == []
    assert _sweep(ledger, NOW + 3 * DAY) == Swept(paused=True)
    with ledger.write() as connection:
        controls.resume(connection, BATCH, "Dr Grey", NOW)
    assert _sweep(ledger, NOW + 3 * DAY + HOUR) == Swept(queued=1)


def test_a_batch_that_is_done_shows_its_pause_while_somebody_may_be_reminded(ledger: Ledger) -> None:
    _sent(ledger)
    set_attempts(ledger, {"delivered_at": NOW})
    with ledger.write() as connection:
        controls.pause(connection, BATCH, "Dr Grey", None, NOW)
        assert shown_status(figures.status(connection, BATCH)) == "Done (paused)"
        controls.resume(connection, BATCH, "Dr Grey", NOW)
    _sweep(ledger, NOW + 6 * DAY)
    with ledger.write() as connection:
        controls.pause(connection, BATCH, "Dr Grey", None, NOW)
        assert shown_status(figures.status(connection, BATCH)) == "Done"


def test_after_a_long_pause_what_was_queued_is_too_late(ledger: Ledger) -> None:
    _sent(ledger)
    _sweep(ledger, NOW + 3 * DAY)
    assert _due(ledger, NOW + 3 * DAY) == [BATCH]  # queued, and not sent
    assert _sweep(ledger, NOW + 4 * DAY) == Swept(against={"too_late": 1})
    assert len(attempt_rows(ledger)) == 1
    assert _sweep(ledger, NOW + 6 * DAY) == Swept(queued=1)


def test_a_cancelled_batch_reminds_nobody(ledger: Ledger) -> None:
    _sent(ledger, *lines(2))
    _sweep(ledger, NOW + 3 * DAY)
    begin(ledger, 3, at=NOW + 3 * DAY, step="reminder_3")
    with ledger.write() as connection:
        assert controls.cancel(connection, BATCH, "Dr Grey", NOW).reminders
    assert attempt_rows(ledger, "line", "step", "reminder_day") == [
        (2, "primary", None),
        (3, "reminder_3", None),
        (3, "primary", None),
    ]
    assert _due(ledger, NOW + 6 * DAY) == []
    with ledger.write() as connection:
        assert not controls.cancel(connection, BATCH, "Dr Grey", NOW, with_fallbacks=True).reminders


def test_what_a_person_says_was_not_sent_is_decided_anew(ledger: Ledger) -> None:
    _sent(ledger)
    _sweep(ledger, NOW + 3 * DAY)
    begin(ledger, 2, at=NOW + 3 * DAY, step="reminder_3")
    set_attempts(ledger, {"unconfirmed_at": NOW + 3 * DAY}, step="reminder_3")
    with ledger.write() as connection:
        [found] = unconfirmed.resolve(connection, BATCH, [2], "Dr Grey", NOW + 3 * DAY, sent=False)
    assert found.step == "reminder_3"
    assert _sweep(ledger, NOW + 3 * DAY + HOUR) == Swept(queued=1)
    assert _sweep(ledger, NOW + 5 * DAY) == Swept(against={"too_late": 1})


@on_postgresql_alone
def test_those_of_several_days_are_taken_back_in_the_order_in_which_receipts_are_folded(ledger: Ledger) -> None:
    """Else each waits for a row that the other has, and one of them fails."""
    _sent(ledger, *lines(2))
    set_attempts(ledger, {"accepted_at": NOW - 3 * DAY, "reminder_day": 6}, line=3)
    assert _sweep(ledger, NOW + 3 * DAY).queued == 2
    [(first,), (second,)] = attempt_rows(ledger, "id", step="primary")

    def take_back() -> int:
        with ledger.write() as connection:
            return reminders.take_back(connection, BATCH)

    def lock(connection: sa.Connection, number: int) -> None:
        connection.execute(sa.select(attempts.c.id).where(attempts.c.id == number).with_for_update())

    waiting = sa.text("SELECT count(*) FROM pg_locks WHERE NOT granted")
    with ThreadPoolExecutor(1) as other:
        with ledger.write() as connection:
            lock(connection, first)
            taken = other.submit(take_back)
            while not connection.scalar(waiting):
                sleep(0.01)
            lock(connection, second)
        assert taken.result() == 2
    assert attempt_rows(ledger, "reminder_day") == [(3,), (6,)]


# Sent, counted, recorded ---------------------------------------------------------------------------------------------


@pytest.fixture
def world(folder: Path) -> World:
    """Five patients who got a questionnaire by text."""
    made = World(folder, recipients=lines(5, reminder_day=3))
    with made.ledger.write() as connection:
        connection.execute(sa.update(batches).values(questionnaire="smoking"))
    links.write(made.ledger, BATCH, "questionnaire", KEYS, rows(*range(2, 7)), NOW)
    made.process()
    return made


def _remind(world: World, now: datetime) -> Dispatched:
    _sweep(world.ledger, now)
    return world.process(step="reminder_3", now=now)


def test_each_goes_once(world: World) -> None:
    _answer(world.ledger, 4, NOW + DAY, completes=True)
    assert _remind(world, NOW + 3 * DAY) == Dispatched(accepted=4)
    assert _remind(world, NOW + 3 * DAY) == Dispatched()
    assert _due(world.ledger, NOW + 3 * DAY) == []
    reminded = {reference for reference in world.journal() if reference.endswith("reminder_3")}
    assert reminded == {f"{BATCH}:{line}:reminder_3" for line in (2, 3, 5, 6)}
    assert set(world.journal().values()) == {1}


def test_who_answers_between_queueing_and_sending_is_not_reminded(world: World) -> None:
    _sweep(world.ledger, NOW + 3 * DAY)
    _answer(world.ledger, 4, NOW + 3 * DAY, completes=True)
    assert world.process(step="reminder_3", now=NOW + 3 * DAY) == Dispatched(accepted=4)
    assert _steps(world.ledger, 4) == ["primary"]


def test_a_cancel_between_queueing_and_sending_keeps_them_back(world: World) -> None:
    _sweep(world.ledger, NOW + 3 * DAY)
    with world.ledger.write() as connection:
        controls.cancel(connection, BATCH, "Dr Grey", NOW)
    assert world.process(step="reminder_3", now=NOW + 3 * DAY) == Dispatched()
    assert {step for (step,) in attempt_rows(world.ledger, "step")} == {"primary"}


def test_what_a_dead_process_left_is_due_and_is_finished_once(world: World) -> None:
    _sweep(world.ledger, NOW + 3 * DAY)

    def die(moment: str) -> None:
        if moment == "after post":
            raise SystemExit

    with pytest.raises(SystemExit):
        world.process(die, step="reminder_3", now=NOW + 3 * DAY)
    assert _due(world.ledger, NOW + 3 * DAY) == [BATCH]
    with world.ledger.read() as connection:
        assert reminders.unfinished_steps(connection, BATCH) == ["reminder_3"]
    world.clock.wall += HOUR
    _remind(world, NOW + 3 * DAY)
    reminded = [reference for reference in world.journal() if reference.endswith("reminder_3")]
    assert len(reminded) == 5
    assert set(world.journal().values()) == {1}


def test_after_one_that_was_left_behind_half_a_day_goes_by(world: World) -> None:
    """What is finished after an outage goes when it is finished, whenever it was begun."""
    _sweep(world.ledger, NOW + 3 * DAY)

    def die(moment: str) -> None:
        if moment == "before post":
            raise SystemExit

    with pytest.raises(SystemExit):
        world.process(die, step="reminder_3", now=NOW + 3 * DAY)
    world.clock.wall += HOUR
    assert _sweep(world.ledger, NOW + 6 * DAY) == Swept(queued=2, against={"just_reminded": 3})
    assert world.process(step="reminder_3", now=NOW + 6 * DAY).accepted == 3
    assert world.process(step="reminder_6", now=NOW + 6 * DAY) == Dispatched(accepted=2)
    assert _sweep(world.ledger, NOW + 7 * DAY) == Swept()


@pytest.mark.parametrize(("apart", "queued"), [(12 * HOUR - SECOND, 0), (12 * HOUR, 1)])
def test_after_one_that_went_late_half_a_day_goes_by(ledger: Ledger, apart: timedelta, queued: int) -> None:
    """Where all of a day's take longer to send than half a day."""
    _sent(ledger, Recipient(2, reminder_day=1), questionnaire="bp_7_day")
    _sweep(ledger, NOW + DAY)
    begin(ledger, 2, at=NOW + 2 * DAY - apart, step="reminder_1")
    assert _sweep(ledger, NOW + 2 * DAY).queued == queued


def test_they_are_counted_beside_the_patients_and_recorded_after_the_first(world: World) -> None:
    with world.ledger.read() as connection:
        before = figures.progress(connection, BATCH)
    _remind(world, NOW + 3 * DAY)
    set_attempts(world.ledger, {"delivered_at": NOW + 3 * DAY})
    with world.ledger.read() as connection:
        after = figures.progress(connection, BATCH)
        due_ids = records.due_messages(connection, BATCH, NOW + 3 * DAY)
        first = [row.identifier for row in connection.execute(due_ids)]
        told = records.message_facts(connection, [f"{BATCH}:2:reminder_3", f"{BATCH}:2:primary"])
    assert (before.reminders, after.reminders) == (0, 5)
    assert after.sent.sms_fragments == 2 * before.sent.sms_fragments
    assert sum(after.classes.values()) == sum(before.classes.values()) == 5
    assert after.for_record == 10
    assert sorted(first) == [f"{BATCH}:{line}:primary" for line in range(2, 7)]
    assert [(each.identifier, each.first) for each in told] == [
        (f"{BATCH}:2:primary", None),
        (f"{BATCH}:2:reminder_3", f"{BATCH}:2:primary"),
    ]


def test_batches_sent_between_a_message_and_its_reminder_are_not_gone_through_to_count(ledger: Ledger) -> None:
    _sent(ledger)
    queue(ledger, lines(3), "another", cohort_sha256="another", message_key="another")
    _sweep(ledger, NOW + 3 * DAY)
    others = {number for (number,) in attempt_rows(ledger, "id", batch="another")}
    with ledger.read() as connection:
        spans = figures._spans(connection, BATCH)
        assert sum(figures.progress(connection, BATCH).recipients.values()) == 1
    assert not others & {number for first, last in spans for number in range(first, last + 1)}
    assert [number for (number,) in attempt_rows(ledger, "id", batch=BATCH)] == [first for first, _ in reversed(spans)]


def test_a_batch_that_was_reported_is_reported_again(ledger: Ledger) -> None:
    _sent(ledger)
    set_attempts(ledger, {"delivered_at": NOW})
    with ledger.write() as connection:
        connection.execute(sa.update(batches).values(reported_at=NOW, saved_at=NOW))
    _sweep(ledger, NOW + 3 * DAY)
    with ledger.read() as connection:
        assert connection.execute(sa.select(batches.c.reported_at, batches.c.saved_at)).one() == (None, None)


def test_a_final_report_waits_until_reminders_are_sent_and_for_nothing_that_is_told_of_them(ledger: Ledger) -> None:
    """Who couldn't be reached is listed when that is known, whatever is still to be heard of a reminder by text."""
    _sent(ledger)
    set_attempts(ledger, {"delivered_at": NOW})
    assert _unreported(ledger) == [BATCH]
    _sweep(ledger, NOW + 3 * DAY)
    assert _unreported(ledger) == []  # it would count none
    with ledger.write() as connection:
        controls.pause(connection, BATCH, "Dr Grey", None, NOW)
    assert _unreported(ledger) == [BATCH]
    with ledger.write() as connection:
        controls.resume(connection, BATCH, "Dr Grey", NOW)
    begin(ledger, 2, at=NOW + 3 * DAY, step="reminder_3")
    for settled_at, unreported in ((None, []), (NOW, [BATCH])):
        with ledger.write() as connection:
            connection.execute(sa.update(chunks).where(chunks.c.step == "reminder_3").values(settled_at=settled_at))
        set_attempts(ledger, {"accepted_at": settled_at}, step="reminder_3")
        assert _unreported(ledger) == unreported


def _unreported(ledger: Ledger) -> list[str]:
    with ledger.read() as connection:
        return due.ended_unreported(connection)


@on_sqlite_alone
def test_what_is_due_is_found_by_an_index(ledger: Ledger) -> None:
    _sent(ledger)
    plans = query_plans(ledger, lambda connection: due.with_reminders(connection, NOW + 3 * DAY))
    scans = [plan for plan in plans if "attempts" in plan]
    assert scans
    assert all("ix_attempts_reminder_clock" in plan or "ix_attempts_unsent" in plan for plan in scans)
