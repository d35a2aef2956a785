"""A PostgreSQL of the tests' own: a throw-away cluster on a Unix socket, and an empty ledger in it for each test.

``cluster`` is started by the first test that wants it, once in each process of pytest. Nothing else can reach it, and
it ends with pytest, also with one that is killed: its guard sees to that.
"""

import itertools
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql

from batch_pipeline.ledger import migrations
from batch_pipeline.ledger.engine import Ledger
from batch_pipeline.ledger.tables import metadata
from batch_pipeline_tests import connections

_USER = "ledger"
_TEMPLATE = "a_new_ledger"
_MISSING = (
    "PostgreSQL IS NOT TESTED HERE: its programs (initdb, postgres) are neither on the PATH nor under /usr/lib/postgresql: "
    "install Debian's `postgresql`, or whatever package has them"
)
# Waits for pytest to say that all is well, or to be gone: then it ends the server and leaves no folder behind.
_GUARD = """
read -r well && exit
kill -QUIT "$1"
while kill -0 "$1" 2>/dev/null; do sleep 0.1; done
rm -rf "$2"
"""
# Begins only under guard: if pytest is gone before that, there is nothing to read, and no server.
_SERVER = 'read -r guarded && exec "$0" -D "$1" </dev/null'
_FAST = ("fsync=off", "synchronous_commit=off", "full_page_writes=off", "autovacuum=off")
# Neither foreign keys nor the audit's trigger stand in the way of that.
_EMPTY = sql.SQL("; ").join(
    [
        sql.SQL("SET session_replication_role = replica"),
        sql.SQL("SELECT pg_terminate_backend(pid) FROM pg_stat_activity")
        + sql.SQL(" WHERE datname = current_database() AND pid <> pg_backend_pid() AND state IS DISTINCT FROM 'idle'"),
        *(sql.SQL("DELETE FROM {}").format(sql.Identifier(table)) for table in metadata.tables),
        *(
            sql.SQL("SELECT setval(pg_get_serial_sequence({}, 'id'), 1, false)").format(table)
            for table in ("attempts", "audit", "receipts")
        ),
        sql.SQL("UPDATE alembic_version SET version_num = {}").format(migrations.HEAD),
    ]
)


def programs() -> Path | None:
    """The folder of PostgreSQL's server programs, the newest first."""
    on_path = shutil.which("initdb")
    folders = [Path(on_path).resolve().parent] if on_path else []
    folders += sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda folder: folder.parent.name, reverse=True)
    return next((folder for folder in folders if (folder / "initdb").exists() and (folder / "postgres").exists()), None)


def require_programs() -> Path:
    """As ``programs``; without them the test is skipped, and on CI it fails."""
    found = programs()
    if found is not None:
        return found
    if os.environ.get("CI"):
        pytest.fail(_MISSING)
    pytest.skip(_MISSING)


def _not_root() -> dict[str, Any]:
    """Arguments of ``subprocess`` by which a program runs as somebody that PostgreSQL accepts: it refuses root."""
    if os.geteuid() != 0:
        return {}
    known = {entry.pw_name: entry for entry in pwd.getpwall()}
    somebody = known.get("postgres") or known["nobody"]
    return {"user": somebody.pw_uid, "group": somebody.pw_gid, "extra_groups": []}


@dataclass
class Cluster:
    """A cluster in a folder of its own, running or not. ``durable``: what is committed outlives a crash."""

    programs: Path
    folder: Path
    durable: bool = False
    _server: subprocess.Popen[Any] | None = None
    _guard: subprocess.Popen[Any] | None = None
    _emptied: list[str] = field(default_factory=list[str])
    _emptying: dict[str, psycopg.Connection] = field(default_factory=dict[str, psycopg.Connection])
    _numbers: Iterator[int] = field(default_factory=itertools.count)

    @property
    def data(self) -> Path:
        return self.folder / "data"

    def make(self) -> None:
        made = subprocess.run(
            [
                *(self.programs / "initdb", "--no-sync", "--auth=trust", f"--username={_USER}", "--no-locale"),
                *("--encoding=UTF8", "--no-instructions", self.data),
            ],
            capture_output=True,
            text=True,
            check=False,
            cwd="/",
            **_not_root(),
        )
        assert made.returncode == 0, made.stderr
        with (self.data / "postgresql.conf").open("a") as settings:
            chosen = ("listen_addresses=''", f"unix_socket_directories='{self.folder}'", "shared_buffers=64MB")
            settings.write("\n".join((*chosen, *(() if self.durable else _FAST), "")))

    def start(self) -> None:
        """Starts the server and waits until it answers; after a crash that is until it has recovered."""
        give_up = time.monotonic() + 60
        while not self._answers():
            assert time.monotonic() < give_up, (self.folder / "log").read_text()[-2_000:]
            # The children of a server that was killed end a moment after it; until then another doesn't start.
            if self._server is None or self._server.poll() is not None:
                self._dismiss_guard()
                self._launch()
            time.sleep(0.02)

    def _launch(self) -> None:
        # Sessions of their own: Ctrl-C is pytest's.
        common: dict[str, Any] = {"stdin": subprocess.PIPE, "start_new_session": True, "cwd": "/", **_not_root()}
        with (self.folder / "log").open("ab") as log:
            command = ["sh", "-c", _SERVER, self.programs / "postgres", self.data]
            server = subprocess.Popen(command, stdout=log, stderr=log, **common)
        command = ["sh", "-c", _GUARD, "guard", str(server.pid), self.folder]
        self._server, self._guard = server, subprocess.Popen(command, **common)
        assert server.stdin is not None
        with server.stdin as waiting:
            waiting.write(b"guarded\n")

    def _dismiss_guard(self) -> None:
        if self._guard is not None:
            self._guard.communicate(b"all is well\n")
            self._guard = None

    def _answers(self) -> bool:
        try:
            with self.connect():
                return True
        except psycopg.OperationalError:
            return False

    def crash(self, how: signal.Signals = signal.SIGKILL) -> None:
        """Ends the server at once: SIGKILL, or SIGQUIT (``pg_ctl stop -m immediate``). ``start`` recovers it."""
        assert self._server is not None
        for connection in self._emptying.values():
            connection.close()
        self._emptying.clear()
        self._server.send_signal(how)
        self._server.wait()

    def stop(self) -> None:
        """Ends the server and removes its folder."""
        if self._server is not None:
            self.crash(signal.SIGQUIT)
        self._dismiss_guard()
        shutil.rmtree(self.folder, ignore_errors=True)

    def connect(self, database: str = "postgres") -> psycopg.Connection:
        return psycopg.connect(host=str(self.folder), dbname=database, user=_USER, autocommit=True)

    def url(self, database: str) -> str:
        return f"postgresql+psycopg://{_USER}@/{database}?host={self.folder}"

    def new_database(self, *, migrated: bool = True) -> str:
        """A database of its own; its name. It holds a new ledger, or nothing yet."""
        if migrated and self._emptied:
            return self._emptied.pop()
        name = f"test_{next(self._numbers)}"
        if migrated and not self.durable:
            connections.share(self.url(name))
        with self.connect() as connection:
            template = self._template(connection) if migrated else "template1"
            # As files: twice as fast as by the log, which is the default.
            make = sql.SQL("CREATE DATABASE {} TEMPLATE {} STRATEGY FILE_COPY")
            connection.execute(make.format(sql.Identifier(name), sql.Identifier(template)))
        return name

    def take_back(self, name: str) -> None:
        """Empties a ledger for the next that wants a new one: that takes a hundredth of the time of making one.

        Connections that wait for their next transaction stay: they are shared with that ledger.
        """
        if name not in self._emptying:
            self._emptying[name] = self.connect(name)
        self._emptying[name].execute(_EMPTY)
        self._emptied.append(name)

    def _template(self, connection: psycopg.Connection) -> str:
        there = connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [_TEMPLATE]).fetchone()
        if not there:
            connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(_TEMPLATE)))
            Ledger.open(self.url(_TEMPLATE)).close()
        return _TEMPLATE


@contextmanager
def running(*, durable: bool = False) -> Iterator[Cluster]:
    """A cluster that has just been made."""
    found = require_programs()
    # A socket's path is short, and the user that the server runs as has to get there: not so under pytest's folders.
    folder = Path(tempfile.mkdtemp(prefix="batch_pipeline_pg_", dir="/tmp"))
    if user := _not_root():
        os.chown(folder, user["user"], user["group"])
    cluster = Cluster(found, folder, durable)
    try:
        cluster.make()
        cluster.start()
        yield cluster
    finally:
        connections.close()
        cluster.stop()
