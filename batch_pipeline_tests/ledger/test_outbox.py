import re
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from pathlib import Path

import pyarrow as pa
import pytest
import sqlalchemy as sa
from hypothesis import given, settings
from hypothesis import strategies as st

from batch_pipeline.errors import Refused
from batch_pipeline.ledger import batches, outbox
from batch_pipeline.ledger.engine import Ledger
from batch_pipeline.ledger.outbox import OutboxWritten
from batch_pipeline.ledger.tables import attempts
from batch_pipeline.ledger.tables import batches as batches_table
from batch_pipeline.providers import nhs_notify
from batch_pipeline.providers._reference_tokens import ReferenceTokens
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
    open_ledger,
    patient,
    queue,
    rows,
    set_attempts,
)
from batch_pipeline_tests.ledgers import on_postgresql_slowly


def _later(ledger: Ledger, recipients: Sequence[Recipient], plan: str = LATER_PLAN) -> OutboxWritten:
    approve(ledger, plan=plan)
    return outbox.write(ledger, BATCH, plan, rows(recipients), NOW + timedelta(hours=1))


def test_every_row_of_the_plan_is_on_disk(ledger: Ledger) -> None:
    plan = [Recipient(2), Recipient(3, "nhs_app"), Recipient(5, "email"), Recipient(7, held_back=True)]
    assert queue(ledger, plan) == OutboxWritten(4, 0, 0, 0)
    assert attempt_rows(ledger, "line", "channel", "step", "reference", "patient", "held_back_at") == [
        (2, "sms", "primary", f"{BATCH}:2:primary", patient(2), None),
        (3, "nhs_app", "primary", f"{BATCH}:3:primary", patient(3), None),
        (5, "email", "primary", f"{BATCH}:5:primary", patient(5), None),
        (7, "sms", "primary", f"{BATCH}:7:primary", patient(7), NOW),
    ]
    assert attempt_rows(ledger, "fallback_after", line=3) == [(24 * 3600 * 1_000_000,)]
    with ledger.read() as connection:
        assert batches.get(connection, BATCH).applied_plan == PLAN


def test_the_same_plan_again_changes_nothing(ledger: Ledger) -> None:
    queue(ledger, lines(5))
    before = attempt_rows(ledger)
    assert outbox.write(ledger, BATCH, PLAN, rows(lines(9)), NOW) == OutboxWritten(0, 0, 0, 5)
    assert _later(ledger, lines(5)) == OutboxWritten(0, 0, 0, 5)
    assert attempt_rows(ledger) == before


def test_a_plan_that_is_not_approved_is_refused(ledger: Ledger) -> None:
    approve(ledger)
    with ledger.write() as connection:
        batches.record_plan(connection, BATCH, LATER_PLAN, {}, NOW)
    for plan, why in ((LATER_PLAN, "isn't approved"), (PLAN, "has changed since it was approved")):
        with pytest.raises(Refused, match=why):
            outbox.write(ledger, BATCH, plan, rows(lines(2)), NOW)
    assert attempt_rows(ledger) == []


def test_a_cancelled_batch_is_refused(ledger: Ledger) -> None:
    approve(ledger)
    with ledger.write() as connection:
        connection.execute(sa.update(batches_table).values(cancelled_at=NOW))
    with pytest.raises(Refused, match="is cancelled"):
        outbox.write(ledger, BATCH, PLAN, rows(lines(2)), NOW)


@pytest.mark.parametrize("plan", [[*lines(3), Recipient(2)], [*lines(2000), Recipient(5)]])
def test_a_plan_that_names_a_patient_twice_is_refused_whole(ledger: Ledger, plan: list[Recipient]) -> None:
    with pytest.raises(Refused, match="twice") as refusal:
        queue(ledger, plan)
    assert patient(2) not in str(refusal.value)
    assert attempt_rows(ledger) == []
    with ledger.read() as connection:
        assert batches.get(connection, BATCH).applied_plan is None


def test_a_plan_whose_rows_end_in_an_error_leaves_nothing(ledger: Ledger) -> None:
    def broken() -> Iterator[pa.RecordBatch]:
        yield from rows(lines(1500))
        raise OSError(28, "No space left on device")

    approve(ledger)
    with pytest.raises(OSError, match="No space"):
        outbox.write(ledger, BATCH, PLAN, broken(), NOW)
    assert attempt_rows(ledger) == []
    assert queue(ledger, lines(3)) == OutboxWritten(3, 0, 0, 0)
    approve(ledger, plan=LATER_PLAN)
    with pytest.raises(OSError, match="No space"):
        outbox.write(ledger, BATCH, LATER_PLAN, broken(), NOW)
    assert len(attempt_rows(ledger)) == 3


# Later plans


def test_a_later_plan_adds_moves_and_removes_those_not_begun(ledger: Ledger) -> None:
    queue(ledger, lines(4))
    later = [Recipient(2), Recipient(3, "email"), Recipient(4, text="Another text."), Recipient(9)]
    assert _later(ledger, later) == OutboxWritten(added=1, moved=2, removed=1, unchanged=1)
    assert attempt_rows(ledger, "line", "channel", "address", "text", "queued_at") == [
        (2, "sms", "+447700900002", "Your flu jab is due.", NOW),
        (3, "email", "patient3@example.org", "Your flu jab is due.", NOW),
        (4, "sms", "+447700900004", "Another text.", NOW),
        (9, "sms", "+447700900009", "Your flu jab is due.", NOW + timedelta(hours=1)),
    ]


def test_a_later_plan_leaves_alone_what_is_begun(ledger: Ledger) -> None:
    queue(ledger, lines(3))
    begin(ledger, 2, 3)
    before = attempt_rows(ledger, line=2) + attempt_rows(ledger, line=3)
    later = [Recipient(2, "email", text="Another text."), Recipient(4, "email")]
    assert _later(ledger, later) == OutboxWritten(added=0, moved=1, removed=0, unchanged=1)
    assert attempt_rows(ledger, line=2) + attempt_rows(ledger, line=3) == before


def test_a_later_plan_leaves_fallbacks_alone(ledger: Ledger) -> None:
    queue(ledger, lines(2, "nhs_app"))
    begin(ledger, 2, 3)
    with ledger.write() as connection:
        copied = [column for column in attempts.c if column.name not in {"id", "step", "reference", "chunk"}]
        fallback = sa.select(sa.literal("fallback"), attempts.c.reference + ":f", *copied)
        names = ["step", "reference", *(column.name for column in copied)]
        connection.execute(sa.insert(attempts).from_select(names, fallback))
    assert _later(ledger, lines(1)) == OutboxWritten(0, 0, 0, 1)
    assert [row[0] for row in attempt_rows(ledger, "step", line=3)] == ["primary", "fallback"]


@pytest.mark.parametrize("end", ["cancelled_at", "expired_at"])
def test_a_later_plan_brings_nothing_back_to_life(ledger: Ledger, end: str) -> None:
    queue(ledger, lines(2))
    set_attempts(ledger, {end: NOW})
    before = attempt_rows(ledger)
    assert _later(ledger, [Recipient(2, "email")]) == OutboxWritten(0, 0, 0, 1)
    assert attempt_rows(ledger) == before


def test_holding_back_follows_the_plan(ledger: Ledger) -> None:
    queue(ledger, [Recipient(2, held_back=True), Recipient(3, held_back=True), Recipient(4)])
    later = [Recipient(2, held_back=True), Recipient(3), Recipient(4, held_back=True)]
    assert _later(ledger, later) == OutboxWritten(0, 2, 0, 1)
    assert attempt_rows(ledger, "line", "held_back_at") == [(2, NOW), (3, None), (4, NOW + timedelta(hours=1))]


def test_a_patient_may_move_to_another_line_of_the_cohort(ledger: Ledger) -> None:
    queue(ledger, lines(1))
    moved = [Recipient(2)]
    approve(ledger, plan=LATER_PLAN)
    table = pa.Table.from_batches(rows(moved)).set_column(0, "line", pa.array([7], pa.int32()))
    assert outbox.write(ledger, BATCH, LATER_PLAN, table.to_batches(), NOW) == OutboxWritten(0, 1, 0, 0)
    assert attempt_rows(ledger, "line", "reference") == [(7, f"{BATCH}:2:primary")]


@pytest.mark.parametrize(("line", "number"), [(2, 7), (7, 2)])
def test_a_plan_that_names_a_line_twice_is_refused_whole(ledger: Ledger, line: int, number: int) -> None:
    queue(ledger, [Recipient(number)])
    approve(ledger, plan=LATER_PLAN)
    table = pa.Table.from_batches(rows([Recipient(2), Recipient(7)])).set_column(0, "line", pa.array([line] * 2))
    with pytest.raises(Refused, match="a line twice"):
        outbox.write(ledger, BATCH, LATER_PLAN, table.to_batches(), NOW)
    assert attempt_rows(ledger, "line") == [(number,)]


# References


def _references(ledger: Ledger) -> dict[int, str]:
    return dict(attempt_rows(ledger, "line", "reference"))  # pyright: ignore[reportArgumentType]


def test_another_ledger_or_another_write_makes_references_unlike_any_before(new_folder: Callable[[], Path]) -> None:
    """Two homes with one account, or a home whose ledger was lost, would else share what the provider holds."""
    found: list[dict[int, str]] = []
    for _ in range(2):
        ledger = open_ledger(new_folder())
        approve(ledger)
        outbox.write(ledger, BATCH, PLAN, rows(lines(3)), NOW)
        first = _references(ledger)
        begin(ledger, 2)
        _later(ledger, [Recipient(2), Recipient(3), Recipient(4, "email"), Recipient(9)])
        found += [first, _references(ledger)]
        ledger.close()
    (first, later), others = found[:2], found[2:]
    assert {line: later[line] for line in (2, 3, 4)} == first  # once made it stays, whatever a plan changes
    parts = re.fullmatch(rf"{BATCH}:([0-9a-f]{{8}}):2:primary", first[2])
    assert parts is not None
    assert parts[1] not in later[9]
    assert not {*first.values(), *later.values()} & {reference for other in others for reference in other.values()}


def test_the_longest_of_references_is_within_what_providers_are_told(ledger: Ledger) -> None:
    longest = "b" * 63
    approve(ledger, longest)
    table = pa.Table.from_batches(rows(lines(1))).set_column(0, "line", pa.array([999_999_999], pa.int32()))
    outbox.write(ledger, longest, PLAN, table.to_batches(), NOW)
    ((reference,),) = attempt_rows(ledger, "reference")
    assert len(reference) < len(nhs_notify._LONGEST_REFERENCE)
    tokens = ReferenceTokens(b"a key for tests, and nothing else")
    assert tokens.find(f"<{tokens.token(reference)}@surgery.example.test>") == reference


def test_a_plan_under_another_hash_key_is_refused(ledger: Ledger) -> None:
    queue(ledger, lines(3))
    begin(ledger, 3)
    approve(ledger, plan=LATER_PLAN)
    table = pa.Table.from_batches(rows(lines(3)))
    column = table.column_names.index("patient")
    other = table.set_column(column, "patient", pa.array(["x", "y", "z"]))
    with pytest.raises(Refused, match="hash key"):
        outbox.write(ledger, BATCH, LATER_PLAN, other.to_batches(), NOW)
    assert [row[0] for row in attempt_rows(ledger, "patient")] == [patient(2), patient(3), patient(4)]


PLANNED = st.lists(
    st.builds(Recipient, st.integers(2, 8), st.sampled_from(["sms", "email", "nhs_app"]), held_back=st.booleans()),
    unique_by=lambda recipient: recipient.line,
)


@on_postgresql_slowly
@settings(max_examples=15)
@given(plans=st.lists(st.tuples(PLANNED, st.sets(st.integers(2, 8))), min_size=1, max_size=4))
def test_whatever_the_plans_the_last_one_holds_for_all_but_the_begun(
    new_folder_of_module: Callable[[], Path], plans: list[tuple[list[Recipient], set[int]]]
) -> None:
    ledger = open_ledger(new_folder_of_module())
    begun: dict[int, tuple[object, ...]] = {}
    for number, (plan, begins) in enumerate(plans):
        written = queue(ledger, plan, plan=f"{number:064x}")
        assert written.added + written.moved + written.unchanged == len(plan)
        there = {row[0]: row for row in attempt_rows(ledger, "line", "channel", "text", "chunk")}
        planned = {recipient.line: (recipient.line, recipient.path, recipient.text, None) for recipient in plan}
        assert there == planned | begun
        begin(ledger, *(begins & there.keys()))
        begun = {row[0]: row for row in attempt_rows(ledger, "line", "channel", "text", "chunk") if row[3]}
    ledger.close()
