"""Writing to the ledger from several threads, with one commit for those that want to write at the same time."""

import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy.exc import OperationalError

from batch_pipeline.ledger.engine import Ledger
from batch_pipeline.ledger.grouping import Grouped

Told = TypeVar("Told")


@dataclass(slots=True)
class _Write:
    work: Callable[[sa.Connection], Any]
    answer: Any = None
    failure: BaseException | None = None


_LONGEST = 0.05
"""Seconds after which no further write is begun in a transaction: other processes wait for its end."""


class WritesTogether:
    """Writes to a ledger for the threads of one process, each write as if in a transaction of its own.

    On SQLite one writes at a time, and to wait there for another is to poll; so those that come meanwhile go together
    in the next transaction, each in a savepoint: one that fails is undone alone. On PostgreSQL each has a transaction,
    and the server syncs once for many.

    Args:
        ledger: where to.
        steady: seconds by a clock that nobody sets.
    """

    def __init__(self, ledger: Ledger, steady: Callable[[], float]) -> None:
        self._ledger = ledger
        self._steady = steady
        self._together = Grouped(self._write_together)

    def write(self, work: Callable[[sa.Connection], Told]) -> Told:
        """Gives what ``work`` gives, once it is committed. It may be called in another thread than this.

        Whatever it raises undoes what it wrote, and is raised here. A commit that fails is the failure of all who were
        in it, and whether they are on disk isn't known then.
        """
        if self._ledger.dialect != "sqlite":
            with self._ledger.write() as connection:
                return work(connection)
        mine = _Write(work)
        self._together(mine)
        if mine.failure is not None:
            raise mine.failure
        return mine.answer

    def _write_together(self, writes: Sequence[_Write]) -> int:
        began, done = self._steady(), 0
        with self._ledger.write() as connection:
            if len(writes) == 1:
                writes[0].answer = writes[0].work(connection)
                return 1
            for write in writes:
                _apart(connection, write)
                done += 1
                if self._steady() - began > _LONGEST:
                    break
        return done


def _apart(connection: sa.Connection, write: _Write) -> None:
    """Does one of several.

    Where its failure ended the whole transaction (a full disk can), there is no such savepoint any more: then it is the
    failure of all.
    """
    _execute(connection, "SAVEPOINT one_write")
    try:
        write.answer = write.work(connection)
    except BaseException as failure:  # noqa: BLE001 - it is raised where the write was asked for
        write.failure = failure
        _execute(connection, "ROLLBACK TO one_write")
    _execute(connection, "RELEASE one_write")


def _execute(connection: sa.Connection, statement: str) -> None:
    """As SQLAlchemy would, which takes ten times as long."""
    try:
        connection.connection.cursor().execute(statement)
    except sqlite3.Error as error:
        raise OperationalError(statement, None, error) from error
