"""Which batches something is due for: what the sensors and the sweep ask. Each question is answered from an index."""

from collections.abc import Iterable, Sequence
from datetime import datetime

import sqlalchemy as sa

from batch_pipeline.ledger import controls, reminders
from batch_pipeline.ledger.dialects import one_of_texts
from batch_pipeline.ledger.figures import status
from batch_pipeline.ledger.tables import (
    FALLBACK_OPEN,
    SMS_OPEN,
    UNSENT,
    approvals,
    attempts,
    batches,
    chunks,
    links,
    receipts,
    tells_of_attempt,
)
from batch_pipeline.rules.policy import SMS_TIMEOUT, sms_timeout_cutoff
from batch_pipeline.rules.steps import REMINDERS


def ready_to_send(connection: sa.Connection) -> list[str]:
    """Batches whose approved plan isn't in the outbox yet, or whose outbox isn't sent, oldest first.

    Paused ones wait. Of a cancelled one, what was begun is finished.
    """
    approved = sa.exists().where(approvals.c.batch == batches.c.batch, approvals.c.plan_hash == batches.c.current_plan)
    new = sa.and_(
        approved, batches.c.applied_plan.is_distinct_from(batches.c.current_plan), batches.c.cancelled_at.is_(None)
    )
    query = (
        sa.select(batches.c.batch)
        .where(~controls.is_paused(), sa.or_(new, _unsent("primary"), _open_chunk("primary")))
        .order_by(batches.c.submitted_at)
    )
    return list(connection.scalars(query))


def with_receipts(connection: sa.Connection) -> set[str]:
    """Batches for which a stored receipt waits to be folded."""
    query = (
        sa.select(attempts.c.batch).join(receipts, tells_of_attempt()).where(receipts.c.folded_at.is_(None)).distinct()
    )
    return set(connection.scalars(query))


def of_references(connection: sa.Connection, provider: str, references: Iterable[Sequence[str]]) -> set[str]:
    """The batches of a provider's messages, by their references; those that aren't known have none."""
    query = sa.select(attempts.c.batch).where(attempts.c.provider == provider).distinct()
    return {
        batch
        for some in references
        for batch in connection.scalars(query.where(one_of_texts(connection, attempts.c.reference, some)))
    }


def last_sent_by(connection: sa.Connection, provider: str) -> dict[str, str]:
    """By workspace, the batch submitted last of which emails went to a provider."""
    emailed = sa.exists().where(
        chunks.c.batch == batches.c.batch,
        chunks.c.step == "primary",
        chunks.c.channel == "email",
        chunks.c.provider == provider,
    )
    query = sa.select(batches.c.workspace, batches.c.batch).where(emailed).order_by(batches.c.submitted_at)
    return {row.workspace: row.batch for row in connection.execute(query)}


def with_time_outs(connection: sa.Connection, now: datetime) -> set[str]:
    """Batches with a text of which nothing was heard for as long as its provider's rule says."""
    silent = sa.and_(sa.text(SMS_OPEN), attempts.c.accepted_at <= now - SMS_TIMEOUT)
    providers = connection.scalars(sa.select(attempts.c.provider).where(silent).distinct()).all()
    timed_out = [
        sa.and_(attempts.c.provider == provider, attempts.c.accepted_at <= sms_timeout_cutoff(provider, now))
        for provider in providers
    ]
    return set(connection.scalars(sa.select(attempts.c.batch).where(silent, sa.or_(sa.false(), *timed_out)).distinct()))


def with_unsent_fallbacks(connection: sa.Connection) -> set[str]:
    """Batches in which a fallback was queued and not sent, by a run that was killed in between."""
    query = sa.select(batches.c.batch).where(
        ~controls.is_paused(), sa.or_(_unsent("fallback"), _open_chunk("fallback"))
    )
    return set(connection.scalars(query))


def with_reminders(connection: sa.Connection, now: datetime) -> list[str]:
    """Batches in which a reminder is due, or was queued and not sent. Paused ones wait."""
    asking = sa.select(batches.c.batch).where(~controls.is_paused(), batches.c.questionnaire.is_not(None))
    unfinished = asking.where(sa.or_(_unsent(*REMINDERS), _open_chunk(*REMINDERS)))
    due = reminders.batches_due(connection, now)
    return sorted({*connection.scalars(unfinished), *(due and due & set(connection.scalars(asking)))})


def ended_unreported(connection: sa.Connection) -> list[str]:
    """Batches in which every patient has ended and of which no final report was made since.

    Nor since a link of theirs was locked: that patient is to be followed up. Reminders that are being sent are waited
    for, so that they are counted, and nothing that may be heard of them.
    """
    mine = attempts.c.batch == batches.c.batch
    reminding = sa.and_(~controls.is_paused(), sa.or_(_unsent(*REMINDERS), _open_chunk(*REMINDERS)))
    still_open = sa.or_(
        _unsent("primary"),
        _unsent("fallback"),
        _open_chunk("primary"),
        _open_chunk("fallback"),
        reminding,
        sa.exists().where(mine, attempts.c.step.not_in(REMINDERS), sa.text(SMS_OPEN)),
        sa.exists().where(mine, sa.text(FALLBACK_OPEN)),
    )
    locked_since = sa.exists().where(links.c.batch == batches.c.batch, links.c.locked_at > batches.c.reported_at)
    unreported = sa.or_(batches.c.reported_at.is_(None), locked_since)
    query = sa.select(batches.c.batch).where(batches.c.applied_plan.is_not(None), unreported, ~still_open)
    return [batch for batch in connection.scalars(query) if status(connection, batch).all_ended]


def _unsent(*steps: str) -> sa.ColumnElement[bool]:
    return sa.exists().where(attempts.c.batch == batches.c.batch, attempts.c.step.in_(steps), sa.text(UNSENT))


def _open_chunk(*steps: str) -> sa.ColumnElement[bool]:
    return sa.exists().where(chunks.c.batch == batches.c.batch, chunks.c.step.in_(steps), chunks.c.settled_at.is_(None))
