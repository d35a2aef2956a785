from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import given, settings
from hypothesis import strategies as st

from batch_pipeline.ledger import batches, due, history, records
from batch_pipeline.ledger.dialects import one_of
from batch_pipeline.ledger.engine import Ledger
from batch_pipeline.ledger.tables import attempts, patient_marks
from batch_pipeline.ledger.tables import receipts as receipts_table
from batch_pipeline.providers.protocol import Receipt
from batch_pipeline.providers.simulator import Shares, Simulator
from batch_pipeline.sending import receipts
from batch_pipeline.sending.receipts import Folded
from batch_pipeline_tests.ledger.given import (
    BATCH,
    LATER_PLAN,
    NOW,
    PLAN,
    Recipient,
    attempt_rows,
    begin,
    lines,
    open_ledger,
    patient,
    query_plans,
    queue,
    set_attempts,
)
from batch_pipeline_tests.ledger.waiting import wait_until_kept_waiting
from batch_pipeline_tests.ledgers import on_postgresql_alone, on_postgresql_slowly, on_sqlite_alone
from batch_pipeline_tests.sending.worlds import World

HOUR = timedelta(hours=1)
COLUMNS = ("accepted_at", "delivered_at", "read_at", "failed_at", "failure_kind", "failure_code")


def receipt(kind: str, at: datetime = NOW, line: int = 2, *, key: str | None = None, **more: Any) -> Receipt:
    reference = f"{BATCH}:{line}:primary"
    code = more.get("failure_code")
    return Receipt(key or f"{reference}/{kind}/{at.isoformat()}/{code}", reference, kind, at, **more)  # pyright: ignore[reportArgumentType]


@pytest.fixture
def sent(ledger: Ledger) -> Ledger:
    queue(ledger, [Recipient(2, "nhs_app"), Recipient(3)])
    begin(ledger, 2, 3)
    return ledger


def _told(ledger: Ledger, *given: Receipt, now: datetime = NOW) -> Folded:
    receipts.store(ledger, "simulator", given, now)
    return receipts.fold(ledger, now)


# Storing


def test_a_receipt_is_stored_once_by_its_key(sent: Ledger) -> None:
    assert receipts.store(sent, "simulator", [receipt("read"), receipt("read"), receipt("delivered")], NOW) == 2
    assert receipts.store(sent, "simulator", [receipt("read")], NOW + HOUR) == 0
    assert receipts.store(sent, "another", [receipt("read")], NOW) == 1
    assert receipts.store(sent, "simulator", [], NOW) == 0


def test_what_waits_at_a_provider_is_on_disk_before_it_is_forgotten_there(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World(folder)
    world.process()
    simulator = world.simulator()
    later = NOW + HOUR

    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as disk:
        disk.setattr(receipts, "store", full)
        with pytest.raises(receipts.NotHeard, match="simulator: OSError"):
            receipts.collect(world.ledger, [simulator], later)
    assert simulator.waiting(later) == 10
    assert receipts.collect(world.ledger, [simulator, simulator], later) == 10
    assert simulator.waiting(later) == 0


# Folding


def test_each_receipt_sets_its_own_column(sent: Ledger) -> None:
    given = [receipt(kind, NOW + n * HOUR) for n, kind in enumerate(["accepted", "delivered", "read"])]
    failed = receipt("failed", NOW + 3 * HOUR, failure_kind="technical", failure_code="X1")
    assert _told(sent, *given, failed) == Folded(4, 0)
    assert attempt_rows(sent, *COLUMNS, line=2) == [
        (NOW, NOW + HOUR, NOW + 2 * HOUR, NOW + 3 * HOUR, "technical", "X1")
    ]
    assert attempt_rows(sent, *COLUMNS, line=3) == [(None,) * 6]


def test_the_earliest_of_each_kind_counts_and_the_failure_keeps_its_own_reason(sent: Ledger) -> None:
    _told(sent, receipt("read", NOW + HOUR), receipt("failed", NOW + HOUR, failure_kind="temporary"))
    _told(sent, receipt("read", NOW), receipt("failed", NOW, failure_kind="permanent", failure_code="X2"))
    _told(sent, receipt("read", NOW + 2 * HOUR), receipt("failed", NOW + 2 * HOUR, failure_kind="technical"))
    assert attempt_rows(sent, "read_at", "failed_at", "failure_kind", "failure_code", line=2) == [
        (NOW, NOW, "permanent", "X2")
    ]


def test_a_receipt_of_an_unknown_message_waits_and_is_counted(sent: Ledger) -> None:
    assert _told(sent, receipt("read", line=9), receipt("read")) == Folded(1, 1)
    assert receipts.fold(sent, NOW) == Folded(0, 1)
    with sent.read() as connection:
        assert receipts.waiting(connection) == 0
    queue(sent, [Recipient(2, "nhs_app"), Recipient(3), Recipient(9)], plan="c3" * 32)
    with sent.read() as connection:
        assert receipts.waiting(connection) == 1
    assert receipts.fold(sent, NOW) == Folded(1, 0)


def test_one_batch_may_be_folded_by_itself(sent: Ledger) -> None:
    queue(sent, lines(1), batch="other", message_key="other")
    begin(sent, 2, batch="other")
    other = Receipt("k", "other:2:primary", "delivered", NOW)
    receipts.store(sent, "simulator", [receipt("read"), other], NOW)
    assert receipts.fold(sent, NOW, "other") == Folded(1, 0)
    assert attempt_rows(sent, "read_at", batch=BATCH) == [(None,), (None,)]
    assert receipts.fold(sent, NOW) == Folded(1, 0)
    assert attempt_rows(sent, "read_at", batch=BATCH) == [(NOW,), (None,)]


def test_folding_goes_in_slices_and_forgets_none(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(receipts, "AT_ONCE", 3)
    shares = Shares({"sms": {"failed": 0.3}}, repeated_receipts=0.3, shuffled_receipts=0.5)
    world = World(folder, recipients=lines(20), shares=shares)
    world.process()
    receipts.collect(world.ledger, [world.simulator()], NOW + HOUR)
    stray = [receipt("read", line=line) for line in range(100, 110)]
    receipts.store(world.ledger, "simulator", stray, NOW)
    assert receipts.fold(world.ledger, NOW + HOUR) == Folded(20, 10)
    assert all(delivered or failed for delivered, failed in attempt_rows(world.ledger, "delivered_at", "failed_at"))


def test_a_receipt_of_another_provider_touches_nothing(sent: Ledger) -> None:
    """By its reference alone it would be one of ours: whoever holds that account could settle any message."""
    dead = receipt("failed", failure_kind="permanent", failure_code="CM_PDSV_0112")
    before = attempt_rows(sent)
    receipts.store(sent, "another", [*(receipt(kind) for kind in ("accepted", "delivered", "read")), dead], NOW)
    with sent.read() as connection:
        assert due.with_receipts(connection) == set()
        assert receipts.waiting(connection) == 0
    assert receipts.fold(sent, NOW) == Folded(0, 4)
    assert attempt_rows(sent) == before
    with sent.read() as connection:
        assert history.marked(connection) == {}


def test_the_same_fold_of_the_right_one_and_another_takes_the_right_one_alone(sent: Ledger) -> None:
    receipts.store(sent, "another", [receipt("read", NOW - HOUR), receipt("failed", NOW - HOUR)], NOW)
    told = [receipt("read"), receipt("failed", failure_kind="technical", failure_code="X")]
    assert _told(sent, *told) == Folded(2, 2)
    assert attempt_rows(sent, "read_at", "failed_at", "failure_kind", line=2) == [(NOW, NOW, "technical")]


@on_postgresql_alone
def test_a_fold_and_another_who_goes_by_id_do_not_wait_for_each_other(sent: Ledger) -> None:
    """The other stands for a dispatch that records its answer: both change the same messages, many at a time."""
    told = [receipt("delivered", line=3), receipt("read", line=2)]  # in the order of kinds: line 3 before line 2
    receipts.store(sent, "simulator", told, NOW)
    first, second = (sa.update(attempts).where(attempts.c.line == line).values(accepted_at=NOW) for line in (2, 3))
    with ThreadPoolExecutor() as pool:
        with sent.write() as connection:
            connection.execute(first)
            folded = pool.submit(receipts.fold, sent, NOW)
            wait_until_kept_waiting(sent)
            connection.execute(second)
        assert folded.result() == Folded(2, 0)
    assert attempt_rows(sent, "accepted_at", "delivered_at", "read_at") == [(NOW, None, NOW), (NOW, NOW, None)]


@pytest.mark.parametrize("left_out", ["a receipt", "an attempt"])
def test_what_comes_in_the_midst_of_folding_is_left_to_the_next(
    sent: Ledger, monkeypatch: pytest.MonkeyPatch, left_out: str
) -> None:
    """As on PostgreSQL, where each statement of a fold sees what others have committed since the one before."""
    receipts.store(sent, "simulator", [receipt("read"), receipt("delivered", line=3), receipt("delivered")], NOW)
    table, column = (receipts_table, "folded_at") if left_out == "a receipt" else (attempts, "reference")
    hidden = table.c.reference == f"{BATCH}:3:primary" if left_out == "a receipt" else table.c.line == 3
    away, back = (
        ({column: NOW}, {column: None}) if left_out == "a receipt" else ({column: "-"}, {column: f"{BATCH}:3:primary"})
    )
    with sent.write() as connection:
        connection.execute(sa.update(table).where(hidden).values(away))
    mark_patients = receipts._mark_patients

    def others_commit(connection: sa.Connection, *rest: Any) -> None:
        connection.execute(sa.update(table).where(hidden).values(back))
        mark_patients(connection, *rest)

    with monkeypatch.context() as patched:
        patched.setattr(receipts, "_mark_patients", others_commit)
        assert receipts.fold(sent, NOW).folded == 2
    assert receipts.fold(sent, NOW) == Folded(1, 0)
    assert attempt_rows(sent, "delivered_at", line=3) == [(NOW,)]


@pytest.mark.parametrize(
    ("code", "mark"),
    [
        ("CM_PDSV_0008", "invalidated"),
        ("CM_PDSV_0110", "exit_coded"),
        ("CM_PDSV_0111", "deceased"),
        ("cm_pdsv_0112 ", "deceased"),
        ("CM_PDSV_0004", None),
        ("CM_SUPE_0001", None),
        ("SOMETHING_NEW", None),
        (None, None),
    ],
)
def test_a_failure_that_speaks_of_the_patient_is_remembered_for_later_batches(
    sent: Ledger, code: str | None, mark: str | None
) -> None:
    _told(sent, receipt("failed", line=3, failure_kind="permanent", failure_code=code))
    with sent.read() as connection:
        assert history.marked(connection) == ({patient(3): mark} if mark else {})


RECEIPTS = st.lists(
    st.builds(
        receipt,
        st.sampled_from(["accepted", "delivered", "read", "failed"]),
        st.integers(0, 3).map(lambda hours: NOW + hours * HOUR),
        st.integers(2, 4),
    ).flatmap(
        lambda plain: (
            st.builds(
                lambda kind, code: receipt(
                    "failed",
                    plain.occurred_at,
                    int(plain.reference.split(":")[1]),
                    key=f"{plain.provider_key}{kind}{code}",
                    failure_kind=kind,
                    failure_code=code,
                ),
                st.sampled_from(["permanent", "temporary", "technical", "rejected", None]),
                st.sampled_from(["CM_PDSV_0110", "CM_PDSV_0112", "CM_X", None]),
            )
            if plain.kind == "failed"
            else st.just(plain)
        )
    ),
    max_size=12,
)


def _state_after(ledger: Ledger, parts: Sequence[Sequence[Receipt]]) -> tuple[list[Any], list[Any]]:
    """Every column of every attempt, and the marks, after these receipts came in these parts."""
    with ledger.write() as connection:
        connection.execute(sa.delete(receipts_table))
        connection.execute(sa.delete(patient_marks))
        connection.execute(sa.update(attempts).values(dict.fromkeys(COLUMNS)))
    for part in parts:
        _told(ledger, *part)
    with ledger.read() as connection:
        marks = [tuple(row) for row in connection.execute(sa.select(patient_marks).order_by(*patient_marks.c))]
    return attempt_rows(ledger), marks


@pytest.fixture(scope="module")
def three_sent(new_folder_of_module: Callable[[], Path]) -> Ledger:
    ledger = open_ledger(new_folder_of_module())
    queue(ledger, [Recipient(2, "nhs_app"), Recipient(3), Recipient(4)])
    begin(ledger, 2, 3, 4)
    return ledger


@on_postgresql_slowly
@settings(max_examples=60)
@given(given_receipts=RECEIPTS, data=st.data())
def test_any_order_any_repeats_and_any_number_of_folds_make_the_same_state(
    three_sent: Ledger, given_receipts: list[Receipt], data: st.DataObject
) -> None:
    expected = _state_after(three_sent, [given_receipts])
    repeated = given_receipts + data.draw(st.lists(st.sampled_from(given_receipts))) if given_receipts else []
    shuffled = data.draw(st.permutations(repeated))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(shuffled)), max_size=3)))
    parts = [shuffled[start:end] for start, end in zip([0, *cuts], [*cuts, len(shuffled)], strict=True)]
    assert _state_after(three_sent, parts) == expected


_of_any_order = test_any_order_any_repeats_and_any_number_of_folds_make_the_same_state.hypothesis.inner_test  # pyright: ignore[reportFunctionMemberAccess]
test_a_few_of_these_on_postgresql = on_postgresql_alone(
    settings(max_examples=8)(given(given_receipts=RECEIPTS, data=st.data())(_of_any_order))
)


@pytest.mark.parametrize("kind", ["accepted", "delivered", "read", "failed"])
def test_a_receipt_that_comes_before_the_answer_is_kept(folder: Path, kind: str) -> None:
    """The chunk's acceptance is recorded after the provider has already told of one of its messages."""
    world = World(folder, recipients=lines(2))

    def happens(moment: str) -> None:
        if moment == "after post":
            _told(world.ledger, receipt(kind, NOW - HOUR, failure_kind="technical" if kind == "failed" else None))

    world.process(happens)
    assert attempt_rows(world.ledger, f"{kind}_at", line=2) == [(NOW - HOUR,)]
    assert attempt_rows(world.ledger, "accepted_at", line=2) == [(NOW - HOUR if kind == "accepted" else NOW,)]


# Time-outs

DAYS = timedelta(hours=72)


@pytest.mark.parametrize(
    ("after", "ended"), [(DAYS - timedelta(seconds=1), 0), (DAYS, 1), (DAYS + timedelta(seconds=1), 1)]
)
def test_a_silent_sms_times_out_at_72_hours(sent: Ledger, after: timedelta, ended: int) -> None:
    set_attempts(sent, {"accepted_at": NOW})
    assert receipts.time_out(sent, NOW + after) == ended
    assert attempt_rows(sent, "channel", "timed_out_at") == [("nhs_app", None), ("sms", NOW + DAYS if ended else None)]
    assert receipts.time_out(sent, NOW + after) == 0


def test_nights_and_weekends_of_the_provider_do_not_count(ledger: Ledger) -> None:
    queue(ledger, [Recipient(2, provider="nhs_notify")])
    set_attempts(ledger, {"accepted_at": NOW})  # a Thursday, 10:00 in London
    silent_until = NOW + timedelta(days=11, hours=2)  # a Monday: seven days of ten hours, and two hours
    with ledger.read() as connection:
        for moment, found in ((silent_until - timedelta(minutes=1), set()), (silent_until, {BATCH})):
            assert due.with_time_outs(connection, moment) == found
    assert receipts.time_out(ledger, silent_until - timedelta(minutes=1)) == 0
    assert receipts.time_out(ledger, silent_until) == 1
    assert attempt_rows(ledger, "timed_out_at") == [(silent_until,)]


@pytest.mark.parametrize("heard", ["delivered_at", "read_at", "failed_at"])
def test_one_that_was_heard_of_does_not_time_out(sent: Ledger, heard: str) -> None:
    set_attempts(sent, {"accepted_at": NOW, heard: NOW})
    assert receipts.time_out(sent, NOW + 2 * DAYS) == 0


def test_one_batch_may_be_timed_out_by_itself(sent: Ledger) -> None:
    set_attempts(sent, {"accepted_at": NOW})
    assert receipts.time_out(sent, NOW + DAYS, "another") == 0
    assert receipts.time_out(sent, NOW + DAYS, BATCH) == 1


def test_a_late_delivery_stands_beside_the_time_out(sent: Ledger) -> None:
    set_attempts(sent, {"accepted_at": NOW})
    receipts.time_out(sent, NOW + DAYS)
    _told(sent, receipt("delivered", NOW + DAYS + HOUR, line=3))
    assert attempt_rows(sent, "delivered_at", "timed_out_at", line=3) == [(NOW + DAYS + HOUR, NOW + DAYS)]


def test_the_simulator_needs_no_poll_to_be_empty(tmp_path: Path, ledger: Ledger) -> None:
    assert receipts.collect(ledger, [Simulator(tmp_path / "s.sqlite")], NOW) == 0


@on_sqlite_alone
def test_looking_for_time_outs_goes_by_the_clock_and_not_through_the_messages(ledger: Ledger) -> None:
    plan = query_plans(ledger, receipts._earliest_open)
    assert any("INDEX ix_attempts_sms_clock" in line for line in plan), plan


@on_sqlite_alone
def test_looking_for_receipts_goes_through_the_waiting_alone(ledger: Ledger) -> None:
    plan = query_plans(ledger, receipts.waiting)
    assert any("INDEX ix_receipts_waiting" in line for line in plan), plan
    assert not any("SCAN attempts" in line for line in plan), plan


@pytest.mark.parametrize("batch", [None, BATCH])
@on_sqlite_alone
def test_folding_goes_from_the_receipts_to_their_attempts(ledger: Ledger, batch: str | None) -> None:
    mine = receipts._mine(batch)

    def fold_all(connection: sa.Connection) -> None:
        these = one_of(connection, receipts_table.c.id, receipts._ids(connection, 0, 9, mine))
        receipts._set_earliest(connection, "read", "read_at", these, mine)
        receipts._set_earliest_failure(connection, these, mine)
        receipts._set_folded(connection, these, NOW)

    plan = query_plans(ledger, fold_all)
    assert not any("SCAN attempts" in line or "attempts_batch" in line for line in plan), plan
    assert sum("SEARCH attempts" in line and "sqlite_autoindex_attempts_2" in line for line in plan) == 4, plan
    assert not any("SCAN receipts" in line and "ix_receipts_waiting" not in line for line in plan), plan


# What was made of it before


def looked_at_again(ledger: Ledger) -> tuple[bool, bool]:
    """Whether a batch is reported on, and saved, again."""
    with ledger.read() as connection:
        unreported = batches.get(connection, BATCH).reported_at is None
        return unreported, BATCH in [each.batch for each in records.to_be_saved(connection)]


def look_it_over(ledger: Ledger) -> None:
    """It is reported on and saved, as far as anything is known of it."""
    with ledger.write() as connection:
        changes = batches.get(connection, BATCH).changes
        batches.mark_reported(connection, BATCH, changes, NOW)
        records.mark_saved(connection, BATCH, changes, NOW)
    assert looked_at_again(ledger) == (False, False)


def test_a_run_that_dies_over_news_of_a_batch_that_was_saved_leaves_it_to_be_looked_at_again(sent: Ledger) -> None:
    """In the very transaction: what was told is never told again, and nobody would write it to the record."""
    look_it_over(sent)
    receipts.store(sent, "simulator", [receipt("delivered")], NOW)
    receipts.fold(sent, NOW, "another")
    assert looked_at_again(sent) == (False, False)
    receipts.fold(sent, NOW, BATCH)
    assert looked_at_again(sent) == (True, True)


def test_a_plan_that_adds_patients_to_a_batch_that_was_saved_has_it_looked_at_again(sent: Ledger) -> None:
    """Of an email that arrives nothing may ever be told: no news would do it."""
    look_it_over(sent)
    queue(sent, [Recipient(2, "nhs_app"), Recipient(3)], plan=PLAN)
    assert looked_at_again(sent) == (False, False)
    queue(sent, [Recipient(2, "nhs_app"), Recipient(3), Recipient(4, "email")], plan=LATER_PLAN)
    assert looked_at_again(sent) == (True, True)


def test_news_that_comes_while_the_final_report_is_made_has_it_made_again(sent: Ledger) -> None:
    with sent.read() as connection:
        seen = batches.get(connection, BATCH).changes
    with sent.write() as connection:
        batches.mark_changed(connection, BATCH)
    with sent.write() as connection:
        batches.mark_reported(connection, BATCH, seen, NOW)
        assert batches.get(connection, BATCH).reported_at is None
        batches.mark_reported(connection, BATCH, seen + 1, NOW)
        assert batches.get(connection, BATCH).reported_at == NOW
