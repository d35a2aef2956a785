"""Statements compiled once for all the databases of the tests, each of which would compile them anew for itself.

SQLAlchemy keeps by engine what it has compiled, and each test has a new ledger: that took a fifth of the tests' time.
What is compiled depends on the kind of the database alone.
"""

from collections.abc import Iterator, MutableMapping
from typing import Any
from unittest import mock

import sqlalchemy as sa
from sqlalchemy.sql.compiler import Compiled
from sqlalchemy.util import LRUCache
from typing_extensions import override

from batch_pipeline.ledger.engine import Ledger


class _Compiled(MutableMapping[Any, Compiled]):
    """By statement and name of the dialect; SQLAlchemy asks by statement and dialect, which is each engine's own."""

    def __init__(self) -> None:
        self._kept: LRUCache[Any, Compiled] = LRUCache(5_000)

    @override
    def __getitem__(self, key: Any) -> Compiled:
        return self._kept[key[0].name, *key[1:]]

    @override
    def get(self, key: Any, default: Any = None) -> Any:
        return self._kept.get((key[0].name, *key[1:]), default)

    @override
    def __setitem__(self, key: Any, compiled: Compiled) -> None:
        self._kept[key[0].name, *key[1:]] = compiled

    @override
    def __delitem__(self, key: Any) -> None:
        del self._kept[key[0].name, *key[1:]]

    @override
    def __iter__(self) -> Iterator[Any]:
        return iter(self._kept)

    @override
    def __len__(self) -> int:
        return len(self._kept)


_COMPILED = _Compiled()
_MAKE = Ledger.__init__


def share(engine: sa.Engine) -> None:
    """From now on this database's statements are compiled for all."""
    engine.update_execution_options(compiled_cache=_COMPILED)


def _make(ledger: Ledger, engine: sa.Engine) -> None:
    share(engine)
    _MAKE(ledger, engine)


def share_those_of_ledgers() -> None:
    """As ``share``, for every ledger that this process opens."""
    mock.patch.object(Ledger, "__init__", _make).start()
