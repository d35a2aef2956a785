"""Answers that can't wait, each until the practice is told of it (SPEC 2.12). Nothing personal but the line.

An alert is raised in the transaction that keeps the answer, once for a patient and a finding. Whoever tells the practice
notes that afterwards: where that note is lost it is told twice, and never not at all.
"""

from collections.abc import Collection
from datetime import datetime, timedelta
from typing import NamedTuple

import sqlalchemy as sa

from batch_pipeline.ledger import audit
from batch_pipeline.ledger import batches as batches_
from batch_pipeline.ledger.dialects import insert, one_of
from batch_pipeline.ledger.tables import UNTOLD, alerts, batches

AGAIN_AFTER = timedelta(minutes=2)
"""How long somebody who couldn't be told is left alone."""


class Alert(NamedTuple):
    """One finding that can't wait."""

    id: int
    line: int
    finding: str
    raised_at: datetime
    told_at: datetime | None
    told_by: str | None


def raise_(
    connection: sa.Connection, batch: str, patient: str, line: int, findings: Collection[str], now: datetime
) -> None:
    """Raises these findings of a patient, each of them once for ever."""
    if findings:
        mine = {"batch": batch, "patient": patient, "line": line, "raised_at": now}
        connection.execute(
            insert(connection, alerts).on_conflict_do_nothing(),
            [mine | {"finding": finding} for finding in sorted(findings)],
        )


def of_batch(connection: sa.Connection, batch: str) -> list[Alert]:
    """All of a batch, by line."""
    query = sa.select(*(alerts.c[name] for name in Alert._fields)).where(alerts.c.batch == batch)
    return [Alert(*row) for row in connection.execute(query.order_by(alerts.c.line, alerts.c.id))]


def untold(connection: sa.Connection, batch: str) -> list[Alert]:
    """Those of which the practice isn't told yet."""
    return [alert for alert in of_batch(connection, batch) if alert.told_at is None]


def to_be_told(connection: sa.Connection, now: datetime) -> list[tuple[str, str]]:
    """Batches with some of which the practice isn't told, and wasn't tried to be a moment ago; with their workspaces."""
    due = sa.or_(alerts.c.tried_at.is_(None), alerts.c.tried_at <= now - AGAIN_AFTER)
    query = (
        sa.select(batches.c.batch, batches.c.workspace)
        .where(sa.exists().where(alerts.c.batch == batches.c.batch, sa.text(f"alerts.{UNTOLD}"), due))
        .order_by(batches.c.batch)
    )
    return [(row.batch, row.workspace) for row in connection.execute(query)]


def note_try(connection: sa.Connection, ids: Collection[int], now: datetime) -> None:
    """Notes that somebody sets out to tell of these."""
    connection.execute(sa.update(alerts).where(one_of(connection, alerts.c.id, sorted(ids))).values(tried_at=now))


def note_told(connection: sa.Connection, ids: Collection[int], by: str, now: datetime) -> None:
    """Notes that the practice has these; the first time counts."""
    these = sa.and_(one_of(connection, alerts.c.id, sorted(ids)), alerts.c.told_at.is_(None))
    connection.execute(sa.update(alerts).where(these).values(told_at=now, told_by=by))


def note_seen(connection: sa.Connection, batch: str, by: str, now: datetime) -> list[int]:
    """Notes that a person has seen all of a batch; gives the lines of those of which nobody had been told."""
    batches_.get(connection, batch, lock=True)
    seen = untold(connection, batch)
    if seen:
        note_told(connection, [alert.id for alert in seen], by, now)
        lines = sorted({alert.line for alert in seen})
        audit.record(connection, now, by, "seen", batch, {"lines": lines})
        return lines
    return []
