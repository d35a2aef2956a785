"""Batches: taken in, planned, reviewed, approved. A plan is named by its hash, and an approval carries it."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

import sqlalchemy as sa

from batch_pipeline.errors import Refused
from batch_pipeline.ledger import audit
from batch_pipeline.ledger.dialects import insert, queue_for
from batch_pipeline.ledger.tables import approvals, batches, plans

SHORTEST_PREFIX = 8
"""Of a plan's hash, where a person types one."""

Registered = Literal["new", "unchanged", "replaced"]


@dataclass(frozen=True, slots=True)
class Submission:
    """What a batch file and its cohort ask for."""

    batch: str
    workspace: str
    message_type: str
    message_key: str
    questionnaire: str | None
    allow_repeat: bool
    approval: str
    spec: str
    """The batch file as JSON (``spec_json``): another text is another content."""
    cohort_name: str
    cohort_sha256: str

    @property
    def spec_sha256(self) -> str:
        """What tells one content of a batch file from another."""
        return hashlib.sha256(self.spec.encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Batch:
    """A batch as registered."""

    batch: str
    workspace: str
    message_type: str
    message_key: str
    questionnaire: str | None
    allow_repeat: bool
    approval: str
    spec: str
    spec_sha256: str
    cohort_name: str
    cohort_sha256: str
    submitted_at: datetime
    current_plan: str | None
    reviewed_plan: str | None
    applied_plan: str | None
    paused_at: datetime | None
    cancelled_at: datetime | None
    reported_at: datetime | None
    paused_by: str | None
    paused_because: str | None
    breaker_from: datetime | None
    cancelled_by: str | None
    fallbacks_cancelled_at: datetime | None
    saved_at: datetime | None
    changes: int
    links_revoked_at: datetime | None
    inbox_version: int | None


@dataclass(frozen=True, slots=True)
class Plan:
    """A plan that was made: its hash, and its figures as JSON."""

    plan_hash: str
    planned_at: datetime
    figures: str


@dataclass(frozen=True, slots=True)
class Approval:
    """Who approved which plan, and when."""

    plan_hash: str
    approved_by: str
    approved_at: datetime


def spec_json(spec: Mapping[str, Any]) -> str:
    """A batch file's content as the one JSON text that all its spellings share."""
    return json.dumps(spec, sort_keys=True, ensure_ascii=False, separators=(",", ":"))


def register(connection: sa.Connection, submission: Submission, now: datetime, by: str = "submit") -> Registered:
    """Takes a batch in. The same again changes nothing; other content replaces a batch that has no outbox yet.

    ``Refused`` for other content under the id of a batch whose outbox is written or that was cancelled, and for a
    cohort that the same workspace has submitted with the same message under another id (SPEC 2.1), unless
    ``allow_repeat`` or that one was cancelled: who had its message all the same is held back at review.
    """
    known = _find(connection, submission.batch, lock=True)
    content = (submission.workspace, submission.spec_sha256, submission.cohort_sha256)
    if known is not None:
        if (known.workspace, known.spec_sha256, known.cohort_sha256) == content:
            return "unchanged"
        if known.cancelled_at is not None:
            raise Refused(f"batch {submission.batch} is cancelled: submit this one under a new batch id")
        if known.applied_plan is not None:
            what = "cohort" if known.cohort_sha256 != submission.cohort_sha256 else "batch file"
            raise Refused(
                f"batch {submission.batch} is already dispatched with another {what}: submit this one under a new batch id"
            )
    _refuse_repeat(connection, submission)
    if known is not None:
        _forget_plans(connection, submission.batch)
    _store(connection, submission, now)
    audit.record(
        connection,
        now,
        by,
        "submit",
        submission.batch,
        {"cohort_sha256": submission.cohort_sha256, "spec_sha256": submission.spec_sha256},
    )
    return "new" if known is None else "replaced"


def _refuse_repeat(connection: sa.Connection, submission: Submission) -> None:
    if submission.allow_repeat:
        return
    other = connection.scalar(
        sa.select(batches.c.batch)
        .where(
            batches.c.cohort_sha256 == submission.cohort_sha256,
            batches.c.workspace == submission.workspace,
            batches.c.message_key == submission.message_key,
            batches.c.batch != submission.batch,
            batches.c.cancelled_at.is_(None),
        )
        .order_by(batches.c.submitted_at)
        .limit(1)
    )
    if other is not None:
        raise Refused(
            f"{submission.cohort_name}: the same file was already submitted with the same message as batch {other}: "
            "say allow_repeat: true in the batch file if it is to go out again"
        )


def _forget_plans(connection: sa.Connection, batch: str) -> None:
    """A batch with other content has no plan and no approval; the audit keeps that it had."""
    connection.execute(sa.delete(approvals).where(approvals.c.batch == batch))
    connection.execute(sa.update(batches).where(batches.c.batch == batch).values(current_plan=None, reviewed_plan=None))
    connection.execute(sa.delete(plans).where(plans.c.batch == batch))


def _store(connection: sa.Connection, submission: Submission, now: datetime) -> None:
    content = {
        "workspace": submission.workspace,
        "message_type": submission.message_type,
        "message_key": submission.message_key,
        "questionnaire": submission.questionnaire,
        "allow_repeat": submission.allow_repeat,
        "approval": submission.approval,
        "spec": submission.spec,
        "spec_sha256": submission.spec_sha256,
        "cohort_name": submission.cohort_name,
        "cohort_sha256": submission.cohort_sha256,
        "submitted_at": now,
    }
    row = insert(connection, batches).values(batch=submission.batch, **content)
    connection.execute(row.on_conflict_do_update(index_elements=["batch"], set_=content))


def record_plan(
    connection: sa.Connection, batch: str, plan_hash: str, figures: Mapping[str, Any], now: datetime
) -> None:
    """Makes this the batch's current plan. The same again changes nothing."""
    if get(connection, batch, lock=True).current_plan == plan_hash:
        return
    row = insert(connection, plans).values(
        batch=batch, plan_hash=plan_hash, planned_at=now, figures=json.dumps(figures, sort_keys=True)
    )
    connection.execute(row.on_conflict_do_nothing())
    connection.execute(sa.update(batches).where(batches.c.batch == batch).values(current_plan=plan_hash))


def current_plan(connection: sa.Connection, batch: str) -> Plan | None:
    """The plan made last; ``Refused`` for a batch that isn't registered."""
    known = get(connection, batch)
    return None if known.current_plan is None else plan(connection, batch, known.current_plan)


def plan(connection: sa.Connection, batch: str, plan_hash: str) -> Plan:
    """A plan that was made; ``LookupError`` for none of that hash."""
    row = connection.execute(
        sa.select(plans).where(plans.c.batch == batch, plans.c.plan_hash == plan_hash)
    ).one_or_none()
    if row is None:
        raise LookupError(f"batch {batch} has no plan {plan_hash}")
    return Plan(row.plan_hash, row.planned_at, row.figures)


def mark_reviewed(connection: sa.Connection, batch: str, plan_hash: str, now: datetime, by: str = "review") -> None:
    """Notes that this plan was shown to a person; ``Refused`` unless it is the current one."""
    known = get(connection, batch, lock=True)
    if known.current_plan != plan_hash:
        raise Refused(f"batch {batch}: the plan has changed while it was shown: run review again")
    if known.reviewed_plan == plan_hash:
        return
    connection.execute(sa.update(batches).where(batches.c.batch == batch).values(reviewed_plan=plan_hash))
    audit.record(connection, now, by, "review", batch, {"plan": plan_hash})


def approve(connection: sa.Connection, batch: str, by: str, plan_hash: str | None, now: datetime) -> Approval:
    """Approves the current plan, which has to be the one last reviewed. Once approved, it stays so.

    ``plan_hash``: the plan that the person means, whole or its first characters; ``None`` for the current one.
    """
    if not by.strip():
        raise Refused(f"batch {batch}: an approval needs a name: say who approves")
    known = get(connection, batch, lock=True)
    if known.cancelled_at is not None:
        raise Refused(f"batch {batch} is cancelled: submit it under a new batch id")
    current = known.current_plan
    if current is None:
        raise Refused(f"batch {batch} has no plan to approve: submit it first")
    if known.reviewed_plan != current:
        raise Refused(f"batch {batch}: the plan has changed since it was last reviewed: run review")
    if plan_hash is not None and not _means(plan_hash, current):
        raise Refused(f"batch {batch}: the current plan is {current[:12]}, not the one given: run review")
    standing = approval(connection, batch)
    if standing is not None:
        return standing
    connection.execute(sa.insert(approvals).values(batch=batch, plan_hash=current, approved_by=by, approved_at=now))
    audit.record(connection, now, by, "approve", batch, {"plan": current})
    return Approval(current, by, now)


def _means(given: str, plan_hash: str) -> bool:
    given = given.strip().lower()
    return len(given) >= SHORTEST_PREFIX and plan_hash.startswith(given)


def approval(connection: sa.Connection, batch: str) -> Approval | None:
    """The approval of the batch's current plan, if it has one."""
    row = connection.execute(
        sa.select(approvals)
        .join(batches, (batches.c.batch == approvals.c.batch) & (batches.c.current_plan == approvals.c.plan_hash))
        .where(approvals.c.batch == batch)
    ).one_or_none()
    return None if row is None else Approval(row.plan_hash, row.approved_by, row.approved_at)


def mark_reported(connection: sa.Connection, batch: str, changes: int, now: datetime) -> None:
    """Notes when the batch's final report was made.

    ``changes``: those of the batch when what it tells was read. Where there are more by now, it is made again.
    """
    unchanged = sa.and_(batches.c.batch == batch, batches.c.changes == changes)
    connection.execute(sa.update(batches).where(unchanged).values(reported_at=now))


def mark_changed(connection: sa.Connection, batch: str) -> None:
    """Something has become otherwise: the final report, and what was saved to the record, may not be all any more."""
    changed = {"reported_at": None, "saved_at": None, "changes": batches.c.changes + 1}
    connection.execute(sa.update(batches).where(batches.c.batch == batch).values(changed))


def reopen(connection: sa.Connection, batch: str) -> None:
    """``mark_changed`` of one that was reported or saved; any other isn't touched, nor waited for.

    For who is about to change its messages, and may die before saying so.
    """
    over = sa.or_(batches.c.reported_at.is_not(None), batches.c.saved_at.is_not(None))
    if connection.scalar(sa.select(batches.c.batch).where(batches.c.batch == batch, over)) is not None:
        mark_changed(connection, batch)


def get(connection: sa.Connection, batch: str, *, lock: bool = False) -> Batch:
    """A registered batch; ``Refused`` for one that isn't. ``lock``: nobody else changes it in this transaction.

    What names it may be added meanwhile: a patient's reading that can't wait waits for nobody who sends, or revokes.
    """
    known = _find(connection, batch, lock=lock)
    if known is None:
        raise Refused(f"there is no batch {batch}: submit it first, or look at status for the ids there are")
    return known


def _find(connection: sa.Connection, batch: str, *, lock: bool) -> Batch | None:
    if lock:
        queue_for(connection, batch, shared=False)
    query = sa.select(batches).where(batches.c.batch == batch)
    row = connection.execute(query.with_for_update(key_share=True) if lock else query).mappings().one_or_none()
    return None if row is None else Batch(**row)


def all_batches(connection: sa.Connection) -> list[Batch]:
    """Every registered batch, in the order of submission."""
    query = sa.select(batches).order_by(batches.c.submitted_at, batches.c.batch)
    return [Batch(**row) for row in connection.execute(query).mappings()]
