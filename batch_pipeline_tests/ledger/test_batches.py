import json

import pytest

from batch_pipeline.errors import Refused
from batch_pipeline.ledger import audit, batches
from batch_pipeline.ledger.engine import Ledger
from batch_pipeline_tests.ledger.given import (
    BATCH,
    LATER_PLAN,
    NOW,
    PLAN,
    approve,
    lines,
    queue,
    submission,
)


def _actions(ledger: Ledger) -> list[tuple[str, str]]:
    with ledger.read() as connection:
        return [(entry.who, entry.action) for entry in audit.entries(connection)]


def _plan(ledger: Ledger, plan: str = PLAN, *, reviewed: bool = True) -> None:
    with ledger.write() as connection:
        batches.record_plan(connection, BATCH, plan, {"recipients": 3}, NOW)
        if reviewed:
            batches.mark_reviewed(connection, BATCH, plan, NOW, "Nurse Day")


@pytest.fixture
def submitted(ledger: Ledger) -> Ledger:
    with ledger.write() as connection:
        assert batches.register(connection, submission(), NOW, "Nurse Day") == "new"
    return ledger


# Submitting


def test_the_same_submission_again_changes_nothing(submitted: Ledger) -> None:
    _plan(submitted)
    with submitted.write() as connection:
        assert batches.register(connection, submission(), NOW) == "unchanged"
        assert batches.get(connection, BATCH).current_plan == PLAN
    assert _actions(submitted) == [("Nurse Day", "submit"), ("Nurse Day", "review")]


@pytest.mark.parametrize(
    "changes", [{"cohort_sha256": "another"}, {"spec": '{"batch":"another"}'}, {"workspace": "hillside"}]
)
def test_other_content_replaces_a_batch_without_an_outbox(submitted: Ledger, changes: dict[str, str]) -> None:
    approve(submitted)
    with submitted.write() as connection:
        assert batches.register(connection, submission(**changes), NOW) == "replaced"
        batch = batches.get(connection, BATCH)
        assert (batch.current_plan, batch.reviewed_plan, batches.approval(connection, BATCH)) == (None, None, None)
        assert all(getattr(batch, name) == value for name, value in changes.items())


@pytest.mark.parametrize(
    ("changes", "what"), [({"cohort_sha256": "another"}, "cohort"), ({"spec": '{"batch":"another"}'}, "batch file")]
)
def test_other_content_is_refused_once_the_outbox_is_written(
    ledger: Ledger, changes: dict[str, str], what: str
) -> None:
    queue(ledger, lines(2))
    with ledger.write() as connection, pytest.raises(Refused, match=f"another {what}: .* new batch id"):
        batches.register(connection, submission(**changes), NOW)
    with ledger.read() as connection:
        assert batches.get(connection, BATCH).cohort_sha256 == f"sha of {BATCH}"


def test_the_same_cohort_with_the_same_message_is_refused_and_names_the_batch(submitted: Ledger) -> None:
    again = submission("flu-again", cohort_sha256=f"sha of {BATCH}")
    with submitted.write() as connection, pytest.raises(Refused, match=f"as batch {BATCH}: say allow_repeat: true"):
        batches.register(connection, again, NOW)


@pytest.mark.parametrize(
    "changes", [{"allow_repeat": True}, {"workspace": "hillside"}, {"message_key": "body:2"}, {"cohort_sha256": "b"}]
)
def test_a_repeat_is_allowed_when_asked_for_and_elsewhere_is_none(
    submitted: Ledger, changes: dict[str, object]
) -> None:
    another = submission("flu-again", **({"cohort_sha256": f"sha of {BATCH}"} | changes))
    with submitted.write() as connection:
        assert batches.register(connection, another, NOW) == "new"
        assert [batch.batch for batch in batches.all_batches(connection)] == [BATCH, "flu-again"]


def test_an_unknown_batch_is_refused(ledger: Ledger) -> None:
    with ledger.read() as connection, pytest.raises(Refused, match="there is no batch flu-2026-10"):
        batches.get(connection, BATCH)


def test_a_batch_file_has_one_json_whatever_the_order_of_its_keys() -> None:
    assert batches.spec_json({"b": 1, "a": "é"}) == batches.spec_json({"a": "é", "b": 1}) == '{"a":"é","b":1}'


# Planning, reviewing, approving


def test_an_approval_carries_the_plan_the_name_and_the_time(submitted: Ledger) -> None:
    _plan(submitted)
    with submitted.write() as connection:
        given = batches.approve(connection, BATCH, "Dr Grey", None, NOW)
        assert given == batches.approval(connection, BATCH) == batches.Approval(PLAN, "Dr Grey", NOW)
        plan = batches.current_plan(connection, BATCH)
    assert plan is not None
    assert json.loads(plan.figures) == {"recipients": 3}
    assert _actions(submitted)[-1] == ("Dr Grey", "approve")


def test_approving_again_keeps_the_first_approval(submitted: Ledger) -> None:
    _plan(submitted)
    for name in ("Dr Grey", "Dr White"):
        with submitted.write() as connection:
            assert batches.approve(connection, BATCH, name, PLAN, NOW).approved_by == "Dr Grey"
    assert [who for who, action in _actions(submitted) if action == "approve"] == ["Dr Grey"]


@pytest.mark.parametrize("given", [PLAN, PLAN[:8], PLAN[:20].upper(), f" {PLAN[:8]} ", None])
def test_a_plan_is_named_by_its_hash_or_the_beginning_of_it(submitted: Ledger, given: str | None) -> None:
    _plan(submitted)
    with submitted.write() as connection:
        assert batches.approve(connection, BATCH, "Dr Grey", given, NOW).plan_hash == PLAN


@pytest.mark.parametrize("given", [PLAN[:7], LATER_PLAN, PLAN + "0", "", "00000000"])
def test_another_hash_is_refused(submitted: Ledger, given: str) -> None:
    _plan(submitted)
    with submitted.write() as connection, pytest.raises(Refused, match="run review"):
        batches.approve(connection, BATCH, "Dr Grey", given, NOW)


def test_a_plan_that_was_never_shown_cannot_be_approved(submitted: Ledger) -> None:
    with submitted.write() as connection, pytest.raises(Refused, match="no plan to approve"):
        batches.approve(connection, BATCH, "Dr Grey", None, NOW)
    _plan(submitted, reviewed=False)
    with submitted.write() as connection, pytest.raises(Refused, match="changed since it was last reviewed"):
        batches.approve(connection, BATCH, "Dr Grey", PLAN, NOW)


def test_a_plan_made_after_the_review_has_to_be_reviewed(submitted: Ledger) -> None:
    _plan(submitted)
    _plan(submitted, LATER_PLAN, reviewed=False)
    for given in (None, PLAN, LATER_PLAN):
        with submitted.write() as connection, pytest.raises(Refused, match="changed since it was last reviewed"):
            batches.approve(connection, BATCH, "Dr Grey", given, NOW)
    with submitted.write() as connection, pytest.raises(Refused, match="changed while it was shown"):
        batches.mark_reviewed(connection, BATCH, PLAN, NOW)


def test_an_approval_does_not_hold_for_a_later_plan_and_holds_again_for_its_own(submitted: Ledger) -> None:
    _plan(submitted)
    with submitted.write() as connection:
        batches.approve(connection, BATCH, "Dr Grey", None, NOW)
    _plan(submitted, LATER_PLAN)
    with submitted.read() as connection:
        assert batches.approval(connection, BATCH) is None
    _plan(submitted, PLAN)
    with submitted.read() as connection:
        assert batches.approval(connection, BATCH) == batches.Approval(PLAN, "Dr Grey", NOW)


def test_an_approval_needs_a_name(submitted: Ledger) -> None:
    _plan(submitted)
    with submitted.write() as connection, pytest.raises(Refused, match="say who approves"):
        batches.approve(connection, BATCH, "  ", None, NOW)
