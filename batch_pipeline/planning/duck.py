"""DuckDB for the stages of a plan: bounded memory, spilling beside the home's data, errors without cells."""

import errno
import os
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from contextvars import ContextVar
from pathlib import Path
from tempfile import TemporaryDirectory
from types import MappingProxyType
from typing import NamedTuple

import duckdb
import pyarrow.parquet as pq

from batch_pipeline.errors import says_full_disk

# Short dictionaries for the words that repeat and none for numbers and names; no Bloom filters: nobody looks a row up.
# Together a third off the time of DuckDB's defaults.
_PARQUET = (
    "FORMAT parquet, COMPRESSION lz4_raw, DICTIONARY_SIZE_LIMIT 1000, WRITE_BLOOM_FILTER false, ROW_GROUP_SIZE 122880"
)


class SetWorkFailed(RuntimeError):
    """A DuckDB statement failed. Says the kind of failure only: DuckDB's own message may quote a patient's cell."""


_notes: ContextVar[Mapping[str, str]] = ContextVar("notes", default=MappingProxyType({}))


@contextmanager
def noted(**notes: str) -> Iterator[None]:
    """Every table written inside carries these notes, in the file itself: what it was made from (see ``notes``)."""
    token = _notes.set({**_notes.get(), **notes})
    try:
        yield
    finally:
        _notes.reset(token)


def notes(path: Path) -> dict[str, str]:
    """What a table notes of itself."""
    kept = pq.read_metadata(path).metadata or {}
    return {key.decode(): value.decode() for key, value in kept.items() if not key.startswith(b"ARROW")}


class Database(NamedTuple):
    """A DuckDB in memory, and the folder in whose disk it spills."""

    instance: duckdb.DuckDBPyConnection
    scratch: Path


@contextmanager
def database(scratch: Path, memory_limit: str = "700MB", threads: int | None = None) -> Iterator[Database]:
    """An empty DuckDB in memory that spills into ``scratch`` and is closed at the end, whatever happens.

    Rows come in the order of an ORDER BY, or in any: to keep that of a file would cost a twentieth of the plan's time.
    """
    scratch.mkdir(parents=True, exist_ok=True, mode=0o700)
    with TemporaryDirectory(dir=scratch, prefix="spill-") as spill:
        instance = duckdb.connect(
            config={
                "memory_limit": memory_limit,
                "temp_directory": spill,
                "autoinstall_known_extensions": False,
                "preserve_insertion_order": False,
            }
        )
        with closing(instance):
            if threads:
                instance.execute(f"SET threads = {threads}")
            yield Database(instance, scratch)


@contextmanager
def stage(of: Database) -> Iterator[duckdb.DuckDBPyConnection]:
    """A connection for one stage. Its tables are temporary ones, and gone at the end.

    Raises ``SetWorkFailed`` in place of any ``duckdb.Error``, and for a full disk an ``OSError`` that says so.
    """
    with closing(of.instance.cursor()) as connection:
        try:
            yield connection
        except duckdb.Error as error:
            if says_full_disk(str(error)):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(of.scratch)) from None
            raise SetWorkFailed(f"{type(error).__name__} in the set work of this stage") from None


@contextmanager
def duck(scratch: Path, memory_limit: str = "700MB", threads: int | None = None) -> Iterator[duckdb.DuckDBPyConnection]:
    """A connection for one stage to a database of its own."""
    with database(scratch, memory_limit, threads) as own, stage(own) as connection:
        yield connection


def write(connection: duckdb.DuckDBPyConnection, query: str, path: Path) -> None:
    """Writes the query's rows to a Parquet file that its owner alone can read."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    connection.execute(f"COPY ({query}) TO '{quoted(path)}' ({_PARQUET}{_kept_notes()})")
    path.chmod(0o600)


def _kept_notes() -> str:
    if not _notes.get():
        return ""
    return ", KV_METADATA {" + ", ".join(f"{key}: {literal(value)}" for key, value in _notes.get().items()) + "}"


def scan(path: Path) -> str:
    """The FROM-term for a Parquet file."""
    return f"read_parquet('{quoted(path)}')"


def quoted(text: object) -> str:
    """Text for inside single quotes of an SQL literal."""
    return str(text).replace("'", "''")


def literal(text: str | None) -> str:
    """An SQL literal."""
    return "NULL" if text is None else f"'{quoted(text)}'"
