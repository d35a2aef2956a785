"""Disks that nobody waits for: what a test wrote outlives a process that it kills, and no test cuts the power.

Each commit to SQLite and each line of the claims journal waits for the disk: tests do so tens of
thousands of times. That the software asks for it is tested with ``awaited_disks``, and by those that count ``os.fsync``
or let it fail.
"""

import os
import sqlite3
from datetime import timedelta
from pathlib import Path
from unittest import mock

import pytest

from batch_pipeline.ledger import engine
from batch_pipeline.providers import simulator

_fsync = os.fsync
_prepare_ledger = engine._on_sqlite_connect
_open_simulator = simulator._open_store


def _sync(_descriptor: int) -> None:
    """In place of ``os.fsync``."""


def _ledger(connection: sqlite3.Connection, record: object) -> None:
    _prepare_ledger(connection, record)
    connection.execute("PRAGMA synchronous=OFF")


def _simulator(path: Path, busy: timedelta) -> sqlite3.Connection:
    store = _open_simulator(path, busy)
    store.execute("PRAGMA synchronous=OFF")
    return store


def pytest_configure() -> None:
    mock.patch.object(os, "fsync", _sync).start()
    mock.patch.object(engine, "_on_sqlite_connect", _ledger).start()
    mock.patch.object(simulator, "_open_store", _simulator).start()


@pytest.fixture
def awaited_disks(monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on ``os.fsync``, and the stores that are opened, wait as they do outside the tests."""
    monkeypatch.setattr(os, "fsync", _fsync)
    monkeypatch.setattr(engine, "_on_sqlite_connect", _prepare_ledger)
    monkeypatch.setattr(simulator, "_open_store", _open_simulator)
