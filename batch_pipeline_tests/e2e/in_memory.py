"""What a surgery of the tests has in memory in place of new files: Dagster's runs and events, DuckDB's databases.

The same as the real ones but for the time they take to open: a batch of three patients opens twenty databases and
nine hundred connections to Dagster's own. The real ones are opened by the programs that tests start (``program``) and by
surgeries ``on_disk``.
"""

import itertools
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any
from unittest import mock

import dagster as dg
import duckdb
import sqlalchemy as sa
from dagster._core.instance import InstanceType
from dagster._core.launcher.sync_in_memory_run_launcher import SyncInMemoryRunLauncher
from dagster._core.run_coordinator import DefaultRunCoordinator
from dagster._core.storage.event_log import InMemoryEventLogStorage
from dagster._core.storage.event_log.schema import AssetKeyTable, SqlEventLogStorageMetadata
from dagster._core.storage.noop_compute_log_manager import NoOpComputeLogManager
from dagster._core.storage.root import LocalArtifactStorage
from dagster._core.storage.runs import InMemoryRunStorage

from batch_pipeline_tests import statements

_CONNECT = duckdb.connect


class _Events(InMemoryEventLogStorage):
    """Dagster's, on the one connection that it holds: by itself it opens another for each statement."""

    def __init__(self) -> None:
        super().__init__()
        self._thread = threading.get_ident()
        self._batches: dict[str, frozenset[str]] = {}

    @contextmanager
    def _connect(self) -> Iterator[sa.Connection]:
        if threading.get_ident() != self._thread:  # an SQLite connection is its thread's
            with super()._connect() as connection:
                yield connection
            return
        with self._db_lock, self._held_conn.begin():
            yield self._held_conn

    def has_table(self, table_name: str) -> bool:
        """All are made with the storage, and none is dropped."""
        return table_name in SqlEventLogStorageMetadata.tables

    def has_asset_key_col(self, column_name: str) -> bool:
        """As ``has_table``: an older Dagster's tables, which lack columns, are never here."""
        return column_name in AssetKeyTable.columns

    # Dagster asks whether a batch is a partition fifty times a run.

    def has_dynamic_partition(self, partitions_def_name: str, partition_key: str) -> bool:
        if partitions_def_name not in self._batches:
            self._batches[partitions_def_name] = frozenset(self.get_dynamic_partitions(partitions_def_name))
        return partition_key in self._batches[partitions_def_name]

    def add_dynamic_partitions(self, partitions_def_name: str, partition_keys: Sequence[str]) -> None:
        super().add_dynamic_partitions(partitions_def_name, partition_keys)
        self._batches.pop(partitions_def_name, None)

    def delete_dynamic_partition(self, partitions_def_name: str, partition_key: str) -> None:
        super().delete_dynamic_partition(partitions_def_name, partition_key)
        self._batches.pop(partitions_def_name, None)


def dagster_in(folder: Path) -> dg.DagsterInstance:
    """As ``DagsterInstance.ephemeral``."""
    # It notes down which migrations a new database needn't go through; nobody will migrate this one.
    with (
        mock.patch("dagster._core.storage.event_log.in_memory.stamp_alembic_rev"),
        mock.patch("dagster._core.storage.runs.in_memory.stamp_alembic_rev"),
    ):
        runs, events = InMemoryRunStorage(), _Events()
    statements.share(runs._engine)
    statements.share(events._engine)
    return dg.DagsterInstance(
        instance_type=InstanceType.EPHEMERAL,
        local_artifact_storage=LocalArtifactStorage(str(folder)),
        run_storage=runs,
        event_storage=events,
        compute_log_manager=NoOpComputeLogManager(),
        run_coordinator=DefaultRunCoordinator(),
        run_launcher=SyncInMemoryRunLauncher(),
    )


@cache
def _database(settings: tuple[tuple[str, Any], ...]) -> duckdb.DuckDBPyConnection:
    return _CONNECT(config=dict(settings))


_sessions = itertools.count()


def connect_duck(database: str = ":memory:", config: Mapping[str, Any] | None = None) -> duckdb.DuckDBPyConnection:
    """As ``duckdb.connect``; for one in memory, an empty one is attached to a process's DuckDB that is up already.

    Nothing here is large enough to spill.
    """
    if database != ":memory:":
        return _CONNECT(database, config=dict(config or {}))
    settings = {name: value for name, value in (config or {}).items() if name != "temp_directory"}
    session = _database(tuple(sorted(settings.items()))).cursor()
    name = f"session_{next(_sessions)}"
    session.execute(f"ATTACH ':memory:' AS {name}")
    session.execute(f"USE {name}")
    return session
