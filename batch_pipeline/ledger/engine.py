"""Opening a ledger, and its two kinds of transaction."""

import os
import sqlite3
import time
from collections.abc import Generator
from contextlib import closing, contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event

from batch_pipeline.errors import Refused
from batch_pipeline.ledger import migrations

BUSY_TIMEOUT = timedelta(minutes=5)
"""How long a process waits for another's write: longer than the longest, an outbox of ten million rows."""

_BEGIN = "ledger_begin"


class Ledger:
    """One ledger, opened and up to date. Make it with ``Ledger.open``."""

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine

    @classmethod
    def open(cls, url: str | sa.URL) -> "Ledger":
        """Opens the ledger at ``url``, making and migrating it first where needed.

        Many processes may do so at once. An SQLite file is made readable by its owner alone. ``Refused`` for a
        ledger that a newer version of this software has migrated.
        """
        address = sa.make_url(url)
        sqlite = address.get_backend_name() == "sqlite"
        if sqlite and address.database:
            _make_private(Path(address.database))
        # hide_parameters: a failing statement's exception must not carry patients' details into a log.
        engine = sa.create_engine(address, hide_parameters=True, connect_args=_sqlite_arguments() if sqlite else {})
        if sqlite:
            _prepare_sqlite(engine)
        ledger = cls(engine)
        ledger.migrate()
        return ledger

    @contextmanager
    def read(self) -> Generator[sa.Connection]:
        """One transaction that sees one state of the ledger throughout."""
        with self.connect() as connection, self.reading(connection):
            yield connection

    @contextmanager
    def write(self) -> Generator[sa.Connection]:
        """One transaction; committed at the end, rolled back by an exception.

        On SQLite it holds the one write lock from its first statement on, so what it reads can't change under it.
        On PostgreSQL rows that a decision rests on are locked by the statement that reads them.
        """
        with self.connect() as connection, self.writing(connection):
            yield connection

    @contextmanager
    def connect(self) -> Generator[sa.Connection]:
        """A connection for several transactions of ``reading`` and ``writing``; temporary tables live as long."""
        with self._engine.connect() as connection:
            yield connection

    @contextmanager
    def reading(self, connection: sa.Connection) -> Generator[None]:
        """A reading transaction on a connection of ``connect``; temporary tables may be written in it."""
        if self._engine.dialect.name == "sqlite":
            connection.execution_options(**{_BEGIN: "BEGIN"})
        else:
            connection.execution_options(isolation_level="REPEATABLE READ")
        with connection.begin():
            yield

    @contextmanager
    def writing(self, connection: sa.Connection) -> Generator[None]:
        """A writing transaction on a connection of ``connect``."""
        if self._engine.dialect.name == "sqlite":
            connection.execution_options(**{_BEGIN: "BEGIN IMMEDIATE"})
        else:
            connection.execution_options(isolation_level="READ COMMITTED")
        with connection.begin():
            yield

    def migrate(self) -> None:
        """Brings the ledger to this software's version; does nothing, quickly, when it is there already."""
        with self.read() as connection:
            if migrations.version(connection) == migrations.HEAD:
                return
        with self.write() as connection:
            migrations.upgrade(connection)

    def close(self) -> None:
        """Closes its connections. Using it afterwards opens new ones."""
        self._engine.dispose()

    @property
    def dialect(self) -> str:
        """``sqlite`` or ``postgresql``."""
        return self._engine.dialect.name

    def __repr__(self) -> str:
        return f"Ledger({self._engine.url.render_as_string(hide_password=True)!r})"


def _sqlite_arguments() -> dict[str, Any]:
    # isolation_level None: the driver begins nothing by itself; _begin_sqlite does.
    return {"timeout": BUSY_TIMEOUT.total_seconds(), "isolation_level": None}


def _make_private(path: Path) -> None:
    """Makes the file, empty, readable by its owner alone. SQLite gives its -wal and -shm files the same mode.

    A file that is there already is never opened: closing any descriptor of it would end the locks that SQLite holds
    on it in this process, and another process, thinking itself the last, would delete the -wal file under us.
    """
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
    except FileExistsError:
        if path.is_file():
            _keep_private(path)
        else:
            raise Refused(f"{path}: this isn't a file: move it away, or name another") from None
    except OSError as error:
        raise _unusable(path, error) from None


def _keep_private(path: Path) -> None:
    try:
        path.chmod(0o600)
    except OSError as error:
        raise _unusable(path, error) from None


def _unusable(path: Path, error: OSError) -> Refused:
    return Refused(f"{path}: the ledger can't be opened ({error.strerror}): mend its folder's permissions")


def _prepare_sqlite(engine: sa.Engine) -> None:
    event.listen(engine, "connect", _on_sqlite_connect)
    event.listen(engine, "begin", _begin_sqlite)
    _switch_to_wal(engine)


def _on_sqlite_connect(connection: sqlite3.Connection, _record: object) -> None:
    # FULL: what is committed is on disk, also when the power goes, before a provider is called.
    for pragma in ("synchronous=FULL", "foreign_keys=ON", "cache_size=-65536", "journal_size_limit=67108864"):
        connection.execute(f"PRAGMA {pragma}")


def _begin_sqlite(connection: sa.Connection) -> None:
    connection.exec_driver_sql(connection.get_execution_options().get(_BEGIN, "BEGIN"))


def _switch_to_wal(engine: sa.Engine) -> None:
    """Sets the journal mode, which stays with the file.

    SQLite doesn't wait when the switch meets another process at the same, so we do.
    """
    give_up = time.monotonic() + BUSY_TIMEOUT.total_seconds()
    while True:
        try:
            with closing(engine.raw_connection()) as connection:
                if connection.cursor().execute("PRAGMA journal_mode=WAL").fetchone() == ("wal",):
                    return
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > give_up:
                raise
        except sqlite3.DatabaseError:
            raise Refused(f"{engine.url.database}: this file isn't a ledger: move it away, or name another") from None
        time.sleep(0.02)
