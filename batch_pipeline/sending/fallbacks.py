"""The fallback from the NHS App to SMS, once a patient (SPEC 2.9).

The clock runs from the provider's acceptance of the App message, or is over at once when that message failed. What
is due is queued as an attempt of the step ``fallback``, for the dispatcher to send, or ends there with the reason.
"""

from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

import sqlalchemy as sa

from batch_pipeline.ledger import batches as batches_
from batch_pipeline.ledger import chunks, controls, links
from batch_pipeline.ledger.dialects import insert, unindexed
from batch_pipeline.ledger.engine import Ledger
from batch_pipeline.ledger.tables import (
    FALLBACK_DUE_AT,
    FALLBACK_OPEN,
    attempts,
    batches,
    patient_marks,
    to_microseconds,
)
from batch_pipeline.rules.failure_codes import mark_of

Against = Literal[
    "deceased",
    "exit_coded",
    "invalidated",
    "cancelled",
    "link_revoked",
    "opted_out",
    "no_number",
    "likely_to_fail",
]
"""Why a fallback doesn't go. ``cancelled`` is for a batch that was cancelled with its fallbacks."""

AT_ONCE = 5_000
"""Attempts looked at in one transaction."""


@dataclass(frozen=True)
class FallbackFacts:
    """What is looked at again at the moment a fallback is due. All sets are of keyed hashes."""

    provider: str
    """By which the SMS is to go."""
    opted_out: Collection[str] = frozenset()
    """Patients, of all channels or of SMS."""
    deceased: Collection[str] = frozenset()
    """Patients known to have died, besides those the ledger has marked."""
    likely_to_fail: Collection[str] = frozenset()
    """Numbers; empty when the workspace's switch is off."""


@dataclass(frozen=True, slots=True)
class Swept:
    """How many fallbacks were queued, and how many can't go, by reason."""

    queued: int = 0
    against: Mapping[str, int] = field(default_factory=dict[str, int])
    paused: bool = False
    """Nothing more was decided, because of a pause: what is queued may have been so for long."""


def due(connection: sa.Connection, now: datetime) -> dict[str, int]:
    """How many fallbacks are due, by batch. Paused batches wait."""
    batch = unindexed(attempts.c.batch).label("batch")
    query = sa.select(batch, sa.func.count().label("due")).where(*_due(now)).group_by(batch)
    paused = set(connection.scalars(sa.select(batches.c.batch).where(controls.is_paused())))
    return {row.batch: row.due for row in connection.execute(query) if row.batch not in paused}


def sweep(ledger: Ledger, batch: str, now: datetime, facts: FallbackFacts) -> Swept:
    """Decides every fallback of a batch that is due at ``now``: queued, or ended with the reason.

    One that was queued and not begun, because of a pause or a crash, is decided anew by what is known now (SPEC 2.9).
    A cancelled batch's messages keep their course, unless it was cancelled with its fallbacks; a paused one waits.
    What is due is decided in slices, each at once or not at all: a sweep that was cut short is finished by the next.
    Collect and fold the receipts first.
    """
    return _sweep(ledger, batch, now, facts, lambda connection: controls.standing(connection, batch) is None)


def sweep_though_paused(ledger: Ledger, batch: str, now: datetime, facts: FallbackFacts) -> Swept:
    """The same while all is paused, for a ledger that may have forgotten that they went: they aren't for sending."""
    return _sweep(ledger, batch, now, facts, lambda _: True)


def _sweep(
    ledger: Ledger, batch: str, now: datetime, facts: FallbackFacts, may: Callable[[sa.Connection], bool]
) -> Swept:
    queued, against, taken_back = 0, Counter[str](), False
    while True:
        with ledger.write() as connection:
            known = batches_.get(connection, batch, lock=True)
            if not may(connection):
                return Swept(queued, dict(against), paused=True)
            if not taken_back:  # in one: two sweeps at once would take back each other's for ever
                chunks.take_back_fallbacks(connection, batch)
                taken_back = True
            cancelled = known.fallbacks_cancelled_at is not None
            rows = connection.execute(_candidates(batch, now)).all()
            going: list[sa.Row[Any]] = []
            ended: list[tuple[sa.Row[Any], Against]] = []
            for row in rows:
                reason = _against(row, facts, cancelled=cancelled)
                if reason is None:
                    going.append(row)
                else:
                    ended.append((row, reason))
            _queue(connection, going, facts.provider, now)
            _end(connection, ended, now)
        queued += len(going)
        against.update(reason for _, reason in ended)
        if len(rows) < AT_ONCE:
            return Swept(queued, dict(against))


def _due(now: datetime) -> tuple[sa.ColumnElement[bool] | sa.TextClause, ...]:
    # In the very words of the index, or it isn't found.
    due_at = sa.literal_column(FALLBACK_DUE_AT, sa.BigInteger())
    return sa.text(FALLBACK_OPEN), due_at <= to_microseconds(now)


def _candidates(batch: str, now: datetime) -> sa.Select[Any]:
    mark = sa.select(sa.func.min(patient_marks.c.mark)).where(patient_marks.c.patient == attempts.c.patient)
    wanted = (
        "id", "batch", "patient", "reference", "line", "nhs_number", "fallback_number", "sms_text", "address_hash", "fragments",
        "policy", "failed_at", "failure_code",
    )  # fmt: skip
    return (
        sa.select(
            *(attempts.c[name] for name in wanted),
            mark.scalar_subquery().label("mark"),
            links.is_revoked().label("link_revoked"),
        )
        .where(unindexed(attempts.c.batch) == batch, *_due(now))
        .limit(AT_ONCE)
        .with_for_update(of=attempts, skip_locked=True)
    )


def _against(row: sa.Row[Any], facts: FallbackFacts, *, cancelled: bool) -> Against | None:
    """Why this fallback can't go; ``None`` when it can. The first that holds counts."""
    mark: Against | None = mark_of(row.failure_code) or row.mark
    if mark is not None:
        return mark
    reasons: Mapping[Against, bool] = {
        "deceased": row.patient in facts.deceased,
        "cancelled": cancelled,
        "link_revoked": row.link_revoked,
        "opted_out": row.patient in facts.opted_out,
        "no_number": row.fallback_number is None or row.sms_text is None,
        "likely_to_fail": row.address_hash in facts.likely_to_fail,
    }
    return next((reason for reason, holds in reasons.items() if holds), None)


def _queue(connection: sa.Connection, rows: list[sa.Row[Any]], provider: str, now: datetime) -> None:
    if not rows:
        return
    fallbacks = [
        {
            "batch": row.batch,
            "patient": row.patient,
            "step": "fallback",
            "line": row.line,
            "channel": "sms",
            "provider": provider,
            "reference": f"{row.reference.removesuffix('primary')}fallback",
            "nhs_number": row.nhs_number,
            "address": row.fallback_number,
            "text": row.sms_text,
            "address_hash": row.address_hash,
            "fragments": row.fragments,
            "queued_at": now,
            "policy": row.policy,
        }
        for row in rows
    ]
    # One a patient, whatever happens: UNIQUE(batch, patient, step).
    connection.execute(insert(connection, attempts).on_conflict_do_nothing(), fallbacks)
    connection.execute(
        sa.update(attempts).where(attempts.c.id == sa.bindparam("primary_id")).values(fallback_at=now),
        [{"primary_id": row.id} for row in rows],
    )


def _end(connection: sa.Connection, ended: list[tuple[sa.Row[Any], Against]], now: datetime) -> None:
    if not ended:
        return
    connection.execute(
        sa.update(attempts)
        .where(attempts.c.id == sa.bindparam("primary_id"))
        .values(no_fallback_at=now, no_fallback_because=sa.bindparam("reason")),
        [{"primary_id": row.id, "reason": reason} for row, reason in ended],
    )
    marks = [
        {"patient": row.patient, "mark": mark, "marked_at": row.failed_at, "source": row.failure_code}
        for row, _ in ended
        if (mark := mark_of(row.failure_code))
    ]
    if marks:
        connection.execute(insert(connection, patient_marks).on_conflict_do_nothing(), marks)
