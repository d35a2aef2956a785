"""Dagster's own SQLite storage with connections that are kept.

Dagster makes a new engine and a new connection for every event it stores, and each time the last connection to a file
closes, SQLite writes the whole log back and syncs: some 15 ms an event and two seconds a plan, whatever the cohort's
size. Files, tables and transactions are Dagster's; ``dagster.yaml`` names this class, and without it all goes on.
"""

import fcntl
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from dagster._core.storage.base_storage import DagsterStorage
from dagster._core.storage.event_log import SqliteEventLogStorage
from dagster._core.storage.runs import SqliteRunStorage
from dagster._core.storage.schedules import SqliteScheduleStorage
from dagster._core.storage.sqlite import SQLITE_BUSY_TIMEOUT_SECONDS
from dagster._core.storage.sqlite_storage import (
    DagsterSqliteStorage,
    _event_logs_directory,
    _runs_directory,
    _schedule_directory,
)
from dagster._serdes import ConfigurableClassData

_MOST_KEPT = 8
"""Open databases: the index, and a file for each run that is under way or looked at."""


class EventLogStorage(SqliteEventLogStorage):
    """A database a run, and one for all; a few of them stay open."""

    def __init__(self, base_dir: str, inst_data: ConfigurableClassData | None = None) -> None:
        self._kept: OrderedDict[str, sa.Engine] = OrderedDict()
        self._tables: set[str] = set()
        super().__init__(base_dir, inst_data)
        # Dagster only asks whether there is a file; a full disk may have left it half made.
        with self.index_connection() as connection:
            whole = connection.execute(sa.text("SELECT count(*) FROM secondary_indexes")).scalar()
        if not whole:
            self.reindex_events()
            self.reindex_assets()

    @contextmanager
    def _connect(self, shard: str) -> Iterator[sa.Connection]:
        with self._db_lock:
            engine = self._engine(shard)
            if shard not in self._initialized_dbs:
                self._initdb(engine)
                self._initialized_dbs.add(shard)
            with engine.begin() as connection:
                yield connection

    def _engine(self, shard: str) -> sa.Engine:
        if shard not in self._kept:
            self._kept[shard] = _engine(self.conn_string_for_shard(shard))
        self._kept.move_to_end(shard)
        while len(self._kept) > _MOST_KEPT:
            _, oldest = self._kept.popitem(last=False)
            oldest.dispose()
        return self._kept[shard]

    def has_table(self, table_name: str) -> bool:
        """Dagster asks twice an event; a table that is there stays."""
        if table_name not in self._tables and super().has_table(table_name):
            self._tables.add(table_name)
        return table_name in self._tables

    def wipe(self) -> None:
        """Takes every run's database away."""
        self._close()
        super().wipe()

    def dispose(self) -> None:
        """Closes what is open."""
        super().dispose()
        self._close()

    def _close(self) -> None:
        with self._db_lock:
            for engine in self._kept.values():
                engine.dispose()
            self._kept.clear()


class RunStorage(SqliteRunStorage):
    """The runs: one database, open from its first use until the instance is disposed of."""

    @cached_property
    def _engine(self) -> sa.Engine:
        return _engine(self._conn_string)

    @contextmanager
    def connect(self) -> Iterator[sa.Connection]:
        """One transaction."""
        with self._engine.begin() as connection:
            yield connection

    def dispose(self) -> None:
        """Closes it."""
        if engine := vars(self).pop("_engine", None):
            engine.dispose()


class SqliteStorage(DagsterSqliteStorage):
    """Both, and Dagster's own of the ticks, which are few; under one folder, where Dagster itself would put them."""

    def __init__(self, base_dir: str, inst_data: ConfigurableClassData | None = None) -> None:
        self.base_dir = base_dir
        # Of two processes that first open a home one makes the databases: Dagster's own migrations don't stand it.
        with (Path(base_dir) / ".opening").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            self._run_storage = RunStorage.from_local(_runs_directory(base_dir))
            self._event_log_storage = EventLogStorage(_event_logs_directory(base_dir))
            self._schedule_storage = SqliteScheduleStorage.from_local(_schedule_directory(base_dir))
        self._inst_data = inst_data
        DagsterStorage.__init__(self)

    @classmethod
    def from_config_value(cls, inst_data: ConfigurableClassData | None, config_value: Any) -> "SqliteStorage":
        """As ``dagster.yaml`` has it."""
        return cls.from_local(inst_data=inst_data, **config_value)


def _engine(url: str) -> sa.Engine:
    return sa.create_engine(url, connect_args={"timeout": SQLITE_BUSY_TIMEOUT_SECONDS})
