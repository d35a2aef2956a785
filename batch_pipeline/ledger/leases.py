"""Leases on chunks of work: who holds one is told by its fence, which each takeover raises.

Whoever knows only an older fence, or an end of the lease that isn't the ledger's any more, changes nothing. The same
for every table of chunks: those that are posted to providers, and those that are written to the record.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Protocol

import sqlalchemy as sa

from batch_pipeline.ledger.tables import Instant


class Held(Protocol):
    """A chunk as one process knows it."""

    @property
    def reference(self) -> str:
        """Its key."""
        ...

    @property
    def fence(self) -> int:
        """How often it was taken, at least."""
        ...

    @property
    def lease_until(self) -> datetime:
        """By the machine's clock."""
        ...


class Leases:
    """The leases of one table, which has ``reference, fence, lease_until`` and ``settled_at``.

    Its statements are made once: for a chunk of one message, to make them takes longer than to run them.
    ``closed_with``: further columns that are set when a chunk is settled.
    """

    def __init__(self, table: sa.Table, *closed_with: str) -> None:
        self.held = sa.and_(
            table.c.reference == sa.bindparam("held_chunk"),
            table.c.fence == sa.bindparam("held_fence"),
            table.c.lease_until == sa.bindparam("held_until"),
            table.c.settled_at.is_(None),
        )
        """Condition on a row: it is open, and held as the one of ``key`` is known."""
        self._update = sa.update(table).where(self.held)
        self._lock = sa.select(table.c.reference).where(self.held).with_for_update()
        closed: dict[str, Any] = {name: sa.bindparam(f"closed_{name}") for name in closed_with}
        self._close = self._update.values(settled_at=sa.bindparam("closed_at", type_=Instant()), **closed)

    @staticmethod
    def key(chunk: Held) -> dict[str, Any]:
        """What ``held`` is asked with."""
        return {"held_chunk": chunk.reference, "held_fence": chunk.fence, "held_until": chunk.lease_until}

    def change(self, connection: sa.Connection, chunk: Held, values: Mapping[str, Any]) -> bool:
        """Changes the row of a chunk that is still held; whether it is."""
        return bool(connection.execute(self._update.values(values), self.key(chunk)).rowcount)

    def lock(self, connection: sa.Connection, chunk: Held) -> bool:
        """Whether a chunk is still held; then it stays so until the end of the transaction."""
        return connection.scalar(self._lock, self.key(chunk)) is not None

    def settle(self, connection: sa.Connection, chunk: Held, now: datetime, **more: Any) -> bool:
        """Closes a chunk that is still held; whether it is. ``more``: those of ``closed_with``."""
        given = {f"closed_{name}": value for name, value in more.items()}
        return bool(connection.execute(self._close, self.key(chunk) | {"closed_at": now} | given).rowcount)
