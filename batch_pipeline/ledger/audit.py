"""Who did what, and when. Rows are only ever added: the database itself refuses to change or delete one."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from batch_pipeline.ledger.tables import audit


@dataclass(frozen=True, slots=True)
class Entry:
    """One thing a person (or the batch file, for ``approval: auto``) did."""

    at: datetime
    who: str
    action: str
    batch: str | None
    detail: Mapping[str, Any]


def record(
    connection: sa.Connection, at: datetime, who: str, action: str, batch: str | None, detail: Mapping[str, Any]
) -> None:
    """Adds an entry. ``detail`` goes in as JSON and must hold no personal data."""
    row = {"at": at, "who": who, "action": action, "batch": batch, "detail": json.dumps(detail, sort_keys=True)}
    connection.execute(sa.insert(audit).values(**row))


def entries(connection: sa.Connection, batch: str | None = None) -> list[Entry]:
    """All entries, or those of one batch, oldest first."""
    query = sa.select(audit).order_by(audit.c.id)
    if batch is not None:
        query = query.where(audit.c.batch == batch)
    return [Entry(row.at, row.who, row.action, row.batch, json.loads(row.detail)) for row in connection.execute(query)]
