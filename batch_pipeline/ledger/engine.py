"""Opening a ledger, and its two kinds of transaction."""

import os
import sqlite3
import time
from collections.abc import Generator
from contextlib import closing, contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg
import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.exc import DBAPIError

from batch_pipeline.errors import Refused
from batch_pipeline.ledger import migrations

BUSY_TIMEOUT = timedelta(minutes=5)
"""How long a process waits for another's write: longer than the longest, an outbox of ten million rows."""


class Ledger:
    """One ledger, opened and up to date. Make it with ``Ledger.open``."""

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine

    @classmethod
    def open(cls, url: str | sa.URL) -> "Ledger":
        """Opens the ledger at ``url``, making and migrating it first where needed.

        Many processes may do so at once. An SQLite file is made readable by its owner alone. ``Refused`` for a
        ledger that a newer version of this software has migrated, for a PostgreSQL database that isn't in UTF-8, and,
        now and in every later transaction, for a server that can't be reached.
        """
        address = sa.make_url(url)
        sqlite = address.get_backend_name() == "sqlite"
        if sqlite and address.database:
            _make_private(Path(address.database))
        # hide_parameters: a failing statement's exception must not carry patients' details into a log.
        if sqlite:
            engine = sa.create_engine(address, hide_parameters=True, connect_args=_sqlite_arguments())
            _prepare_sqlite(engine)
        else:
            # pre_ping: a server that was started again is no reason to fail. As many connections as there may be
            # workers in a dispatch: one of them that waits for a lock must not keep an answer from being recorded.
            waits = BUSY_TIMEOUT.total_seconds()
            engine = sa.create_engine(
                address, hide_parameters=True, pool_pre_ping=True, pool_size=16, max_overflow=64, pool_timeout=waits
            )
            _prepare_postgresql(engine)
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
        """A connection for several transactions of ``reading`` and ``writing``; temporary tables live as long.

        Outside of those nothing is to be executed: on SQLite each statement would be committed by itself.
        """
        try:
            with self._engine.connect() as connection:
                yield connection
        except DBAPIError as error:
            if (reason := _why_unreachable(error)) is None:
                raise
            raise Refused(
                f"the ledger {self._name} can't be reached ({reason}): see that its server runs and LEDGER_URL is "
                "right, and do the same again; what was done before stays done"
            ) from None

    @contextmanager
    def reading(self, connection: sa.Connection) -> Generator[None]:
        """A reading transaction on a connection of ``connect``; temporary tables may be written in it."""
        if self.dialect != "sqlite":
            connection.execution_options(isolation_level="REPEATABLE READ")
        with connection.begin():
            if self.dialect == "sqlite":
                # It takes no lock and can't fail; through SQLAlchemy it takes ten times as long.
                connection.connection.cursor().execute("BEGIN")
            yield

    @contextmanager
    def writing(self, connection: sa.Connection) -> Generator[None]:
        """A writing transaction on a connection of ``connect``."""
        if self.dialect != "sqlite":
            connection.execution_options(isolation_level="READ COMMITTED")
        with connection.begin():
            if self.dialect == "sqlite":
                connection.exec_driver_sql("BEGIN IMMEDIATE")
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

    @property
    def _name(self) -> str:
        return self._engine.url.difference_update_query(["password"]).render_as_string(hide_password=True)

    def __repr__(self) -> str:
        return f"Ledger({self._name!r})"


def _sqlite_arguments() -> dict[str, Any]:
    # isolation_level None: the driver begins nothing by itself; Ledger.reading and Ledger.writing do.
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
    _switch_to_wal(engine)


def _on_sqlite_connect(connection: sqlite3.Connection, _record: object) -> None:
    # FULL: what is committed is on disk, also when the power goes, before a provider is called.
    for pragma in ("synchronous=FULL", "foreign_keys=ON", "cache_size=-65536", "journal_size_limit=67108864"):
        connection.execute(f"PRAGMA {pragma}")


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


def _prepare_postgresql(engine: sa.Engine) -> None:
    event.listen(engine, "connect", _on_postgresql_connect)
    event.listen(engine, "handle_error", _tell_no_values)


def _on_postgresql_connect(connection: psycopg.Connection, _record: object) -> None:
    encoding = connection.info.parameter_status("server_encoding")
    if encoding != "UTF8":
        raise Refused(
            f"the ledger's database {connection.info.dbname} is in {encoding}, which can't hold every name and text: "
            "make one with `createdb --encoding UTF8 --template template0`"
        )
    # What is committed is on disk before a provider is called, whatever the server or the database has for others.
    connection.execute(
        "SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off'"
    )
    connection.commit()


def _tell_no_values(context: sa.ExceptionContext) -> None:
    """Takes the values of rows out of an exception's texts: DETAIL quotes them, and some messages do."""
    error, told = context.original_exception, context.sqlalchemy_exception
    if not isinstance(error, psycopg.Error):
        return
    before, safe = str(error), _without_values(error)
    error.args = (safe,)
    if told is not None:
        told.args = tuple(arg.replace(before, safe) if isinstance(arg, str) else arg for arg in told.args)


def _without_values(error: psycopg.Error) -> str:
    """What an error says, as far as no cell can be in it.

    Class 22 is about values, and quotes them; the driver, which gives no code, does so for what it can't send.
    """
    if error.sqlstate is None:
        return str(error) if isinstance(error, psycopg.OperationalError) else "the driver can't send a value"
    if error.sqlstate.startswith("22"):
        return f"a value that PostgreSQL doesn't take (SQLSTATE {error.sqlstate})"
    return error.diag.message_primary or f"SQLSTATE {error.sqlstate}"


_NO_SERVER = ("08", "28", "3D", "53300", "57P")
"""Starts of SQLSTATE: no connection, no such user or database, too many connections, a server that ends or begins."""


def _why_unreachable(error: DBAPIError) -> str | None:
    """One line, if the server can't be reached or has gone away."""
    cause = error.orig
    if not isinstance(cause, psycopg.OperationalError):
        return None
    if cause.sqlstate is not None and not cause.sqlstate.startswith(_NO_SERVER):
        return None
    said = [line.strip() for line in str(cause).splitlines() if line.strip()]
    return said[0] if said else type(cause).__name__
