"""Connections to the tests' PostgreSQL that outlive the ledgers they were made for.

A ledger has connections of its own, and for each the server starts a process, which reads the catalogue anew: with the
tests' small ledgers that was half of its work. So the ledgers of one database share an engine, one in each process of
the tests, and closing one of them closes nothing. What kills the server, or looks at connections, goes without.
"""

import os
from typing import Any
from unittest import mock

import sqlalchemy as sa

_MAKE = sa.create_engine
_shared: set[sa.URL] = set()
_engines: dict[tuple[int, sa.URL], sa.Engine] = {}


def share(url: str) -> None:
    """From now on this database's ledgers have one engine."""
    _shared.add(sa.make_url(url))


def close() -> None:
    """Closes the connections of all of them."""
    for engine in _engines.values():
        sa.Engine.dispose(engine)
    _engines.clear()
    _shared.clear()


def _stay_open() -> None:
    """In place of an engine's ``dispose``."""


def _create_engine(address: sa.URL, **arguments: Any) -> sa.Engine:
    if address not in _shared:
        return _MAKE(address, **arguments)
    whose = os.getpid(), address  # a forked process must not speak on its parent's connections
    if whose not in _engines:
        _engines[whose] = _MAKE(address, **arguments)
        mock.patch.object(_engines[whose], "dispose", _stay_open).start()
    return _engines[whose]


def pytest_configure() -> None:
    mock.patch.object(sa, "create_engine", _create_engine).start()
