"""What the claims journal tells of chunks that the ledger has forgotten: in which of them each message went last.

There may be millions of messages, so they are sorted in a temporary database on disk. Nothing in it is personal but
keyed hashes, and it has no name by which another process could open it.
"""

import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any, NamedTuple

from batch_pipeline.ledger.journal import Entry, Noted


class Message(NamedTuple):
    """Names a message for good, whatever its reference."""

    batch: str
    step: str
    patient: str


@dataclass(frozen=True, slots=True)
class Lost:
    """A chunk that the ledger has forgotten."""

    entry: Entry
    """That told of it last, without its body."""
    messages: Mapping[Message, Noted]
    """Those that were posted in it, and not returned since."""


_TIMES = ("claimed_at", "written_at")
_HEAD = tuple(field.name for field in fields(Entry))
_SCHEMA = f"""
CREATE TABLE posted ({", ".join(_HEAD)}, PRIMARY KEY (chunk)) WITHOUT ROWID;
CREATE TABLE told (chunk, patient, line, reference, PRIMARY KEY (chunk, patient)) WITHOUT ROWID;
CREATE TABLE untold (chunk, patient, kind, fence, PRIMARY KEY (chunk, patient, kind)) WITHOUT ROWID;
"""
# Of each holder's lines about a chunk the last counts, and a later holder's before an earlier one's.
_POSTED = f"""
INSERT INTO posted VALUES ({", ".join(f":{name}" for name in _HEAD)})
ON CONFLICT DO UPDATE SET {", ".join(f"{name} = excluded.{name}" for name in _HEAD)}
WHERE (excluded.fence, excluded.written_at) > (fence, written_at)
"""
_UNTOLD = """
INSERT INTO untold VALUES (?, ?, ?, ?)
ON CONFLICT DO UPDATE SET fence = excluded.fence WHERE excluded.fence > fence
"""
# A message is in the last chunk in which it was posted and from which it wasn't returned. One that a person said wasn't
# sent is there too, if it went in no other since: what that person didn't know is forgotten, and asked anew.
_LIVE = """
CREATE TABLE live AS SELECT chunk, patient, line, reference FROM (
    SELECT told.*, row_number() OVER (
        PARTITION BY posted.batch, posted.step, told.patient
        ORDER BY said.chunk IS NOT NULL, posted.written_at DESC, posted.chunk
    ) AS place
    FROM told JOIN posted USING (chunk)
    LEFT JOIN untold AS said ON said.chunk = told.chunk AND said.patient = told.patient
        AND said.kind = 'not_sent' AND said.fence >= posted.fence
    WHERE NOT EXISTS (
        SELECT 1 FROM untold AS back WHERE back.chunk = told.chunk AND back.patient = told.patient
            AND back.kind = 'returned' AND back.fence >= posted.fence
    )
) WHERE place = 1
"""
# Batch by batch: who puts several back at once, or beside another, has locked none out of that order.
_CHUNKS = "SELECT * FROM posted ORDER BY batch, step <> 'primary', written_at, chunk"
_MESSAGES = "SELECT line, patient, reference FROM live WHERE chunk = ? ORDER BY line"


def lost_of(entries: Iterable[Entry]) -> Iterator[Lost]:
    """The chunks that these lines tell of: by batch, first messages before fallbacks, each in the order it was posted."""
    with closing(sqlite3.connect("", isolation_level=None)) as sorting:  # a file of its own, deleted when it is closed
        sorting.executescript(f"PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; {_SCHEMA}")
        for entry in entries:
            _take_in(sorting, entry)
        sorting.executescript(f"{_LIVE}; CREATE INDEX live_by_chunk ON live (chunk, line);")
        for row in sorting.execute(_CHUNKS):
            entry = _entry(row)
            noted = (Noted(*message) for message in sorting.execute(_MESSAGES, [entry.chunk]))
            yield Lost(entry, {Message(entry.batch, entry.step, each.patient): each for each in noted})


def _take_in(sorting: sqlite3.Connection, entry: Entry) -> None:
    if entry.kind != "posted":
        rows = ((entry.chunk, noted.patient, entry.kind, entry.fence) for noted in entry.messages)
        sorting.executemany(_UNTOLD, rows)
        return
    head = {name: getattr(entry, name) for name in _HEAD} | {"body": ""}
    head |= {name: getattr(entry, name).isoformat(timespec="microseconds") for name in _TIMES}
    sorting.execute(_POSTED, head)
    told = ((entry.chunk, noted.patient, noted.line, noted.reference) for noted in entry.messages)
    sorting.executemany("INSERT OR REPLACE INTO told VALUES (?, ?, ?, ?)", told)


def _entry(row: tuple[Any, ...]) -> Entry:
    known: dict[str, Any] = dict(zip(_HEAD, row, strict=True))
    for name in _TIMES:
        known[name] = datetime.fromisoformat(known[name])
    return Entry(**known)
