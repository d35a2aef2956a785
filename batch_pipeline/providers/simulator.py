"""A simulator: it takes messages like a provider and tells of their fate, and sends nothing to anybody.

For demonstrations, rehearsals and tests. Like NHS Notify it takes a chunk reference once. What it answers hangs on
its seed, the patient and the channel alone, so that a batch that is run again has the same fate.

Its store, an SQLite file, holds references and times, and no personal data: a *journal* of every message that it
ever accepted, to which rows are only added (a message taken in two chunks stands there twice: a double send shows),
and the receipts that it will give.
"""

import csv
import hashlib
import json
import os
import sqlite3
import struct
import threading
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

from typing_extensions import override

from batch_pipeline.errors import Refused
from batch_pipeline.providers.protocol import (
    Answer,
    Channel,
    FailureKind,
    Limits,
    OutcomeUnknown,
    OutgoingMessage,
    Provider,
    ProviderStopped,
    Receipt,
    ReceiptKind,
    Recovery,
)

Outcome = Literal["delivered", "read", "rejected", "failed", "silent"]
OUTCOMES: tuple[Outcome, ...] = get_args(Outcome)
CHANNELS: tuple[Channel, ...] = get_args(Channel)

AFTER = timedelta(minutes=5)
"""From acceptance to what becomes of a message, where nothing else is said."""

CHUNK = 1_000
TIMEOUT = timedelta(seconds=0.5)
_RECEIPTS_AT_ONCE = 5_000
_SET_UP = timedelta(seconds=30)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

_HEADINGS = ["nhs_number", "channel", "outcome", "after_minutes"]

# What an outcome makes of a message: kind of its one receipt, kind and code of the failure.
_Fate = tuple[ReceiptKind, FailureKind | None, str | None]
_FATES: Mapping[Outcome, _Fate | None] = {
    "delivered": ("delivered", None, None),
    "read": ("read", None, None),
    "rejected": ("failed", "rejected", "SIMULATED_REJECTION"),
    "failed": ("failed", "permanent", "SIMULATED_FAILURE"),
    "silent": None,
}

_SCHEMA = """
CREATE TABLE IF NOT EXISTS chunks (
    reference TEXT PRIMARY KEY, contents TEXT NOT NULL, messages INTEGER NOT NULL, accepted_at INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS journal (
    id INTEGER PRIMARY KEY, chunk TEXT NOT NULL, reference TEXT NOT NULL, channel TEXT NOT NULL,
    accepted_at INTEGER NOT NULL
);
CREATE TABLE IF NOT EXISTS receipts (
    id INTEGER PRIMARY KEY, reference TEXT NOT NULL, kind TEXT NOT NULL, failure_kind TEXT, failure_code TEXT,
    occurred_at INTEGER NOT NULL, times INTEGER NOT NULL, place INTEGER NOT NULL
);
CREATE INDEX IF NOT EXISTS receipts_due ON receipts (occurred_at) WHERE times > 0;
CREATE TRIGGER IF NOT EXISTS journal_stays BEFORE UPDATE ON journal
BEGIN SELECT RAISE(ABORT, 'the journal is append-only'); END;
CREATE TRIGGER IF NOT EXISTS journal_is_kept BEFORE DELETE ON journal
BEGIN SELECT RAISE(ABORT, 'the journal is append-only'); END;
"""


class _Draws(NamedTuple):
    """What chance gives a message: five numbers from 0 to 1 (without 1)."""

    outcome: float
    repeated: float
    shuffled: float
    place: float
    lost_answer: float


_FIVE = struct.Struct(">5Q")


@dataclass(frozen=True)
class Shares:
    """How often what happens, each from 0 to 1, to messages whose fate the outcomes file doesn't name."""

    outcomes: Mapping[Channel, Mapping[Outcome, float]] = field(default_factory=dict[Channel, Mapping[Outcome, float]])
    """By channel. What is left to 1 is delivered (App: read)."""
    lost_answers: float = 0.0
    """Of chunks: accepted, but the caller doesn't hear so the first time."""
    repeated_receipts: float = 0.0
    """Of receipts: given twice."""
    shuffled_receipts: float = 0.0
    """Of receipts: given in another place of the order than their own."""

    def __post_init__(self) -> None:
        shares = (self.lost_answers, self.repeated_receipts, self.shuffled_receipts)
        by_channel = [list(shares.values()) for shares in self.outcomes.values()]
        if not all(0 <= share <= 1 for share in (*shares, *(share for given in by_channel for share in given))):
            raise ValueError("simulator.shares: a share is a number from 0 to 1")
        if any(sum(given) > 1 + 1e-9 for given in by_channel):
            raise ValueError("simulator.shares: the shares of one channel's outcomes come to more than 1")


@dataclass(frozen=True, slots=True)
class JournalEntry:
    """One acceptance of one message."""

    chunk: str
    reference: str
    channel: Channel
    accepted_at: datetime


class Simulator(Provider):
    """The simulator, for any number of channels and any number of processes at once.

    Args:
        path: its store; made where it is missing, readable by its owner alone.
        seed: another seed, other fates.
        outcomes: a CSV ``nhs_number,channel,outcome,after_minutes`` that says what becomes of whom.
        shares: what becomes of all others.
        chunk: messages a call may hold.
        timeout: of one call.
        recovery: stands in for other kinds of provider, in tests: one that can be asked, or neither, takes a chunk
            as often as it is posted.
    """

    def __init__(
        self,
        path: Path,
        *,
        seed: int = 0,
        outcomes: Path | None = None,
        shares: Shares | None = None,
        chunk: int = CHUNK,
        timeout: timedelta = TIMEOUT,
        recovery: Recovery = Recovery.DEDUPLICATES,
    ) -> None:
        self._path = path
        self._seeded = hashlib.blake2b(f"{seed}\0".encode(), digest_size=_FIVE.size)
        self._outcomes_path = outcomes
        self._shares = shares or Shares()
        self._limits = Limits(chunk, timeout)
        self._recovery = recovery
        self._local = threading.local()

    @property
    @override
    def name(self) -> str:
        return "simulator"

    @property
    @override
    def recovery(self) -> Recovery:
        return self._recovery

    @property
    @override
    def limits(self) -> Limits:
        return self._limits

    def check(self) -> None:
        """Reads the outcomes file; ``Refused`` names the line that is wrong in it."""
        _ = self._outcomes

    # Sending -----------------------------------------------------------------------------------------------------

    @override
    def send(self, chunk_reference: str, messages: Sequence[OutgoingMessage], now: datetime) -> Answer:
        """Accepts the chunk once; posted again it must hold the same (``ValueError``)."""
        try:
            self.check()
        except Refused as fault:
            raise ProviderStopped(str(fault)) from None
        try:
            new = self._accept(chunk_reference, messages, now)
        except sqlite3.OperationalError as error:
            raise OutcomeUnknown(f"the simulator's store: {error}") from None
        if new and self._draw(messages[0]).lost_answer < self._shares.lost_answers:
            raise OutcomeUnknown("the answer was lost on its way, as simulator.shares.lost_answers says")
        return Answer()

    def _accept(self, chunk_reference: str, messages: Sequence[OutgoingMessage], now: datetime) -> bool:
        """Whether the chunk is new here."""
        if len(messages) > self._limits.messages:
            raise ValueError(f"{len(messages)} messages in a chunk of at most {self._limits.messages}")
        contents = _digest(messages)
        at = _microseconds(now)
        with self._transaction() as store:
            if self._recovery is Recovery.DEDUPLICATES:
                known = store.execute("SELECT contents FROM chunks WHERE reference = ?", [chunk_reference]).fetchone()
                if known is not None:
                    if known[0] != contents:
                        raise ValueError(f"chunk {chunk_reference} was accepted with other contents")
                    return False
            new = store.execute(
                "INSERT INTO chunks VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING",
                [chunk_reference, contents, len(messages), at],
            ).rowcount
            store.executemany(
                "INSERT INTO journal (chunk, reference, channel, accepted_at) VALUES (?, ?, ?, ?)",
                [(chunk_reference, message.reference, message.channel, at) for message in messages],
            )
            store.executemany(
                "INSERT INTO receipts (reference, kind, failure_kind, failure_code, occurred_at, times, place)"
                " VALUES (?, ?, ?, ?, ?, ?, ?)",
                list(self._fates(messages, at)),
            )
        return bool(new)

    def _fates(self, messages: Sequence[OutgoingMessage], at: int) -> Iterator[tuple[object, ...]]:
        """The receipts to come of these messages: at most one of each."""
        named, after_default, shares = self._outcomes, AFTER // timedelta(microseconds=1), self._shares
        for message in messages:
            draws = self._draw(message)
            outcome, after = named.get((message.nhs_number, message.channel)) or (
                self._by_share(message.channel, draws.outcome),
                after_default,
            )
            fate = _FATES[outcome]
            if fate is None:
                continue
            kind, failure_kind, failure_code = fate
            if kind == "read" and message.channel != "nhs_app":
                kind = "delivered"
            times = 1 + (draws.repeated < shares.repeated_receipts)
            # 0 keeps a receipt in its place of the order; anything else moves it.
            place = 1 + int(draws.place * 1_000_000) if draws.shuffled < shares.shuffled_receipts else 0
            yield message.reference, kind, failure_kind, failure_code, at + after, times, place

    def _by_share(self, channel: Channel, drawn: float) -> Outcome:
        shares = self._shares.outcomes.get(channel, {})
        for outcome in OUTCOMES if shares else ():
            drawn -= shares.get(outcome, 0.0)
            if drawn < 0:
                return outcome
        return "read" if channel == "nhs_app" else "delivered"

    def _draw(self, message: OutgoingMessage) -> _Draws:
        """What chance gives a message, by seed, patient and channel alone: its reference is another at each writing."""
        digest = self._seeded.copy()
        digest.update(f"{message.nhs_number}\0{message.channel}".encode())
        return _Draws(*(drawn / 2**64 for drawn in _FIVE.unpack(digest.digest())))

    @override
    def held(self, references: Sequence[str]) -> set[str]:
        query = "SELECT reference FROM journal WHERE reference IN (SELECT value FROM json_each(?))"
        return {row[0] for row in self._store().execute(query, [json.dumps(list(references))])}

    # Receipts ----------------------------------------------------------------------------------------------------

    def receipts(self, now: datetime) -> Iterator[Sequence[Receipt]]:
        """What is due at ``now``, oldest first, but for what is shuffled; what is to be repeated comes again later."""
        query = (
            "SELECT id, reference, kind, occurred_at, failure_kind, failure_code, place FROM receipts"
            " WHERE times > 0 AND occurred_at <= ? ORDER BY occurred_at, id LIMIT ?"
        )
        while rows := self._store().execute(query, [_microseconds(now), _RECEIPTS_AT_ONCE]).fetchall():
            given = [row[-1] % len(rows) if row[-1] else place for place, row in enumerate(rows)]
            yield [_receipt(row) for _, row in sorted(zip(given, rows, strict=True), key=lambda pair: pair[0])]
            with self._transaction() as store:
                store.executemany("UPDATE receipts SET times = times - 1 WHERE id = ?", [(row[0],) for row in rows])

    @override
    def close(self) -> None:
        """Nothing stays open between calls."""

    def waiting(self, now: datetime) -> int:
        """How many receipts are due at ``now`` and not fetched yet."""
        query = "SELECT count(*) FROM receipts WHERE times > 0 AND occurred_at <= ?"
        return int(self._store().execute(query, [_microseconds(now)]).fetchone()[0])

    def waiting_references(self, now: datetime) -> Iterator[list[str]]:
        """The references of messages for which a receipt is due, some thousands at once."""
        query = "SELECT DISTINCT reference FROM receipts WHERE times > 0 AND occurred_at <= ?"
        found = self._store().execute(query, [_microseconds(now)])
        while rows := found.fetchmany(_RECEIPTS_AT_ONCE):
            yield [row[0] for row in rows]

    def journal(self) -> Iterator[JournalEntry]:
        """Every acceptance there ever was, in order."""
        for chunk, reference, channel, at in self._store().execute(
            "SELECT chunk, reference, channel, accepted_at FROM journal ORDER BY id"
        ):
            yield JournalEntry(chunk, reference, channel, _instant(at))

    # The outcomes file -------------------------------------------------------------------------------------------

    @cached_property
    def _outcomes(self) -> Mapping[tuple[str, str], tuple[Outcome, int]]:
        return {} if self._outcomes_path is None else load_outcomes(self._outcomes_path)

    # The store ---------------------------------------------------------------------------------------------------

    def _store(self) -> sqlite3.Connection:
        """This thread's connection."""
        if getattr(self._local, "owner", None) != os.getpid():
            self._local.connection = _open_store(self._path, self._limits.timeout)
            self._local.owner = os.getpid()
        connection: sqlite3.Connection = self._local.connection
        return connection

    @contextmanager
    def _transaction(self) -> Generator[sqlite3.Connection]:
        store = self._store()
        store.execute("BEGIN IMMEDIATE")
        try:
            yield store
            store.execute("COMMIT")
        except BaseException:
            if store.in_transaction:
                store.execute("ROLLBACK")
            raise


def load_outcomes(path: Path) -> dict[tuple[str, str], tuple[Outcome, int]]:
    """What becomes of whom: (NHS number, channel) to outcome and microseconds after acceptance.

    ``Refused`` names file, line and mend, and never the NHS number.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            return _read_outcomes(csv.reader(file, strict=True), path.name)
    except OSError as error:
        raise Refused(
            f"{path}: the outcomes file can't be read ({error.strerror}): correct simulator.outcomes"
        ) from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise Refused(f"{path.name}: this isn't a CSV in UTF-8 ({type(error).__name__}): save it as one") from None


def _read_outcomes(rows: Iterator[list[str]], name: str) -> dict[tuple[str, str], tuple[Outcome, int]]:
    headings = [heading.strip().lower() for heading in next(rows, list[str]())]
    if headings != _HEADINGS:
        raise Refused(f"{name}, line 1: the headings must be {','.join(_HEADINGS)}")
    known: dict[tuple[str, str], tuple[Outcome, int]] = {}
    lines: dict[tuple[str, str], int] = {}
    for line, row in enumerate(rows, start=2):
        if not any(cell.strip() for cell in row):
            continue
        key, fate = _read_outcome([cell.strip() for cell in row], f"{name}, line {line}")
        if key in known:
            raise Refused(f"{name}, line {line}: the same patient and channel stand on line {lines[key]}: keep one")
        known[key], lines[key] = fate, line
    return known


def _read_outcome(row: list[str], where: str) -> tuple[tuple[str, str], tuple[Outcome, int]]:
    if len(row) == len(_HEADINGS) - 1:
        row = [*row, ""]
    if len(row) != len(_HEADINGS):
        raise Refused(f"{where}: it has {len(row)} cells: it needs {','.join(_HEADINGS)}")
    nhs_number, channel, wanted, minutes = row
    nhs_number = nhs_number.replace(" ", "")
    if not (nhs_number.isascii() and nhs_number.isdigit() and len(nhs_number) == 10):
        raise Refused(f"{where}: nhs_number must be ten digits")
    if channel not in CHANNELS:
        raise Refused(f"{where}: channel must be one of {', '.join(CHANNELS)}")
    outcome: Outcome | None = next((known for known in OUTCOMES if known == wanted), None)
    if outcome is None:
        raise Refused(f"{where}: outcome must be one of {', '.join(OUTCOMES)}")
    try:
        after = float(minutes) if minutes else AFTER / timedelta(minutes=1)
    except ValueError:
        after = -1
    if not 0 <= after < 1e7:
        raise Refused(f"{where}: after_minutes must be a number of minutes from 0, or empty for 5")
    return (nhs_number, channel), (outcome, round(after * 60_000_000))


def _open_store(path: Path, busy: timedelta) -> sqlite3.Connection:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    # Only a new file is opened and closed: closing any descriptor of it ends the locks of this process's other stores.
    with suppress(FileExistsError):
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
    store = sqlite3.connect(path, timeout=_SET_UP.total_seconds(), isolation_level=None)
    give_up = time.monotonic() + _SET_UP.total_seconds()
    while True:  # SQLite doesn't wait by itself while another process makes the same file a WAL one
        try:
            store.execute("PRAGMA journal_mode=WAL")
            store.execute("PRAGMA synchronous=FULL")
            store.executescript(_SCHEMA)
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > give_up:
                raise
            time.sleep(0.01)
        else:
            store.execute(f"PRAGMA busy_timeout={max(1, busy // timedelta(milliseconds=1))}")
            return store


def _digest(messages: Sequence[OutgoingMessage]) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for message in messages:
        parts = (message.reference, message.channel, message.nhs_number, message.address, message.subject, message.text)
        digest.update(repr(parts).encode())
    return digest.hexdigest()


def _receipt(row: tuple[Any, ...]) -> Receipt:
    number, reference, kind, at, failure_kind, failure_code, _ = row
    return Receipt(f"{reference}/{kind}/{number}", reference, kind, _instant(at), failure_kind, failure_code)


def _microseconds(instant: datetime) -> int:
    return (instant - _EPOCH) // timedelta(microseconds=1)


def _instant(microseconds: int) -> datetime:
    return _EPOCH + timedelta(microseconds=microseconds)
