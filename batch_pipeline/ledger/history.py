"""What earlier batches say about a patient or a number. Answers are sets of keyed hashes, for the planner to join."""

from datetime import datetime

import sqlalchemy as sa

from batch_pipeline.ledger.tables import attempts, batches, patient_marks

REPORTED_FAILURES = ("permanent", "rejected", "temporary")
"""Failures that speak of the number. A technical one, a refusal of the call, or our time-out doesn't (SPEC 2.3)."""


def already_had(
    connection: sa.Connection, workspace: str, message_key: str, since: datetime, except_batch: str
) -> frozenset[str]:
    """Patients whom this workspace has sent this message since then, or is about to; failed ones don't count.

    About to: in the outbox of another batch that is approved, and neither held back, cancelled nor expired. Or else
    two batches planned at the same time would both send.
    """
    query = (
        sa.select(attempts.c.patient)
        .join(batches, batches.c.batch == attempts.c.batch)
        .where(
            batches.c.workspace == workspace,
            batches.c.message_key == message_key,
            batches.c.batch != except_batch,
            sa.func.coalesce(attempts.c.begun_at, attempts.c.queued_at) >= since,
            attempts.c.held_back_at.is_(None),
            attempts.c.cancelled_at.is_(None),
            attempts.c.expired_at.is_(None),
            sa.or_(
                attempts.c.read_at.is_not(None),
                attempts.c.delivered_at.is_not(None),
                sa.and_(attempts.c.failed_at.is_(None), attempts.c.timed_out_at.is_(None)),
            ),
        )
        .distinct()
    )
    return frozenset(connection.scalars(query))


def failed_numbers(connection: sa.Connection, since: datetime) -> frozenset[str]:
    """Numbers whose last SMS since then was reported failed by its provider, with no delivery since (SPEC 2.3)."""
    sent = sa.and_(attempts.c.channel == "sms", attempts.c.begun_at >= since)
    suspects = sa.select(attempts.c.address_hash).where(
        sent, attempts.c.failure_kind.in_(REPORTED_FAILURES), attempts.c.address_hash.is_not(None)
    )
    # Only the suspects' messages are ranked: they are few among all that were sent.
    latest_first = (attempts.c.begun_at.desc(), attempts.c.id.desc())
    ranked = (
        sa.select(
            attempts.c.address_hash,
            attempts.c.failed_at,
            attempts.c.failure_kind,
            sa.func.row_number().over(partition_by=attempts.c.address_hash, order_by=latest_first).label("place"),
            sa.func.max(attempts.c.delivered_at).over(partition_by=attempts.c.address_hash).label("delivered_at"),
            attempts.c.delivered_at.label("own_delivery"),
        )
        .where(sent, attempts.c.address_hash.in_(suspects))
        .subquery()
    )
    query = sa.select(ranked.c.address_hash).where(
        ranked.c.place == 1,
        ranked.c.failure_kind.in_(REPORTED_FAILURES),
        ranked.c.own_delivery.is_(None),
        sa.or_(ranked.c.delivered_at.is_(None), ranked.c.delivered_at <= ranked.c.failed_at),
    )
    return frozenset(hashed for hashed in connection.scalars(query) if hashed is not None)


def marked(connection: sa.Connection) -> dict[str, str]:
    """Patients marked by a provider's failure code, with their mark; of several, ``deceased`` before the others."""
    query = sa.select(patient_marks.c.patient, sa.func.min(patient_marks.c.mark).label("mark")).group_by(
        patient_marks.c.patient
    )
    return {row.patient: row.mark for row in connection.execute(query)}
