"""Batches to start a test from: made-up recipients, an approved plan, a written outbox."""

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow as pa
import sqlalchemy as sa
from sqlalchemy import event

from batch_pipeline.ledger import batches, outbox
from batch_pipeline.ledger.engine import Ledger
from batch_pipeline.ledger.hashing import Hasher
from batch_pipeline.ledger.tables import attempts, chunks, facts

NOW = datetime(2026, 10, 1, 9, tzinfo=UTC)
HASHER = Hasher(b"a key for tests, and nothing else")
BATCH = "flu-2026-10"
PLAN = "a1" * 32
LATER_PLAN = "b2" * 32


def _nhs_numbers() -> Iterator[str]:
    for number in itertools.count(999_000_000):
        check = 11 - sum(int(digit) * weight for digit, weight in zip(str(number), range(10, 1, -1), strict=True)) % 11
        if check != 10:
            yield f"{number}{check % 11}"


_numbers = _nhs_numbers()
_chunk_numbers = itertools.count()
_known: list[str] = []


def nhs_number(line: int) -> str:
    """A number of the fixture range, with its check digit, for each line."""
    while len(_known) <= line:
        _known.append(next(_numbers))
    return _known[line]


def mobile(line: int) -> str:
    return f"+447700900{line % 1000:03d}"


@dataclass(frozen=True)
class Recipient:
    """A row of a plan."""

    line: int
    path: str = "sms"
    provider: str = "simulator"
    number: str | None = ""
    """An SMS goes to, or a fallback may; empty: one made from the line."""
    text: str = "Your flu jab is due."
    held_back: bool = False
    window: timedelta = timedelta(hours=24)
    reminder_day: int | None = None

    def row(self) -> dict[str, Any]:
        number = mobile(self.line) if self.number == "" else self.number
        app = self.path == "nhs_app"
        address = {"sms": number, "nhs_app": nhs_number(self.line), "email": f"patient{self.line}@example.org"}
        return {
            "line": self.line,
            "nhs_number": nhs_number(self.line),
            "patient": patient(self.line),
            "path": self.path,
            "provider": self.provider,
            "address": address[self.path],
            "address_hash": HASHER.hash(number) if number and self.path != "email" else None,
            "fallback_number": number if app else None,
            "subject": "Your flu jab" if self.path == "email" else None,
            "text": self.text,
            "sms_text": self.text if app and number else None,
            "fragments": 0 if self.path == "email" else 1,
            "held_back": self.held_back,
            "policy": "unread" if app else None,
            "fallback_after": self.window // timedelta(microseconds=1) if app else None,
            "reminder_day": self.reminder_day,
        }


_SCHEMA = pa.schema(
    [("line", pa.int32())]
    + [(name, pa.string()) for name in ("nhs_number", "patient", "path", "provider", "address", "address_hash")]
    + [(name, pa.string()) for name in ("fallback_number", "subject", "text", "sms_text")]
    + [("fragments", pa.int32()), ("held_back", pa.bool_()), ("policy", pa.string()), ("fallback_after", pa.int64())]
    + [("reminder_day", pa.int32())]
)


def patient(line: int) -> str:
    return HASHER.hash(nhs_number(line))


def rows(recipients: Iterable[Recipient], at_once: int = 1_000) -> Iterator[pa.RecordBatch]:
    given = iter(recipients)
    while some := list(itertools.islice(given, at_once)):
        yield pa.RecordBatch.from_pylist([recipient.row() for recipient in some], schema=_SCHEMA)


def lines(count: int, path: str = "sms", start: int = 2, **more: Any) -> list[Recipient]:
    return [Recipient(line, path, **more) for line in range(start, start + count)]


def submission(batch: str = BATCH, **changes: Any) -> batches.Submission:
    standard = batches.Submission(
        batch=batch,
        workspace="riverside",
        message_type="simple",
        message_key="body:1",
        questionnaire=None,
        allow_repeat=False,
        approval="required",
        spec=batches.spec_json({"batch": batch}),
        cohort_name=f"{batch}.csv",
        cohort_sha256=f"sha of {batch}",
    )
    return replace(standard, **changes)


@cache
def empty_ledger() -> bytes:
    """An SQLite file with a new ledger."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "ledger.sqlite"
        Ledger.open(f"sqlite:///{path}").close()
        return path.read_bytes()


ELSEWHERE = "ledger.url"
"""A file with the address of a folder's ledger, where that isn't an SQLite file in it: other processes look too."""


def open_ledger(folder: Path) -> Ledger:
    """The folder's ledger; a new SQLite one is copied from one that was migrated before, which is quicker."""
    elsewhere = folder / ELSEWHERE
    if elsewhere.exists():
        return Ledger.open(elsewhere.read_text())
    path = folder / "ledger.sqlite"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        path.write_bytes(empty_ledger())
    return Ledger.open(f"sqlite:///{path}")


def approve(ledger: Ledger, batch: str = BATCH, plan: str = PLAN, **changes: Any) -> None:
    """Registers the batch where it is new, and approves this plan of it."""
    with ledger.write() as connection:
        batches.register(connection, submission(batch, **changes), NOW)
        batches.record_plan(connection, batch, plan, {}, NOW)
        batches.mark_reviewed(connection, batch, plan, NOW)
        batches.approve(connection, batch, "Dr Grey", plan, NOW)


def queue(
    ledger: Ledger, recipients: Sequence[Recipient], batch: str = BATCH, plan: str = PLAN, **changes: Any
) -> outbox.OutboxWritten:
    """An approved batch with its outbox written; references are those of no other batch, and known beforehand."""
    approve(ledger, batch, plan, **changes)
    return outbox.write(ledger, batch, plan, rows(recipients), NOW, series=str)


def attempt_rows(ledger: Ledger, *columns: str, **where: Any) -> list[tuple[Any, ...]]:
    """Chosen columns of the attempts, in the order of lines and steps."""
    wanted = [attempts.c[name] for name in columns] or list(attempts.c)
    query = sa.select(*wanted).where(*(attempts.c[name] == value for name, value in where.items()))
    with ledger.read() as connection:
        return [tuple(row) for row in connection.execute(query.order_by(attempts.c.line, attempts.c.step.desc()))]


def set_attempts(ledger: Ledger, values: dict[str, Any], **where: Any) -> None:
    """Puts attempts into a state that would otherwise take long to reach."""
    if not values:
        return
    with ledger.write() as connection:
        connection.execute(
            sa.update(attempts).where(*(attempts.c[name] == value for name, value in where.items())).values(values)
        )


def note_a_fact(url: str, name: str) -> None:
    """For a process of its own: opens the ledger and writes to it."""
    with Ledger.open(url).write() as connection:
        connection.execute(sa.insert(facts).values(name=name, value=""))


def begin(ledger: Ledger, *begun: int, batch: str = BATCH, at: datetime = NOW, **chunk: str) -> None:
    """Begins the attempts of these lines, in a chunk of their own."""
    reference = f"{batch}/{next(_chunk_numbers)}"
    columns = {"reference": reference, "batch": batch, "step": "primary", "channel": "sms", "provider": "simulator"}
    columns |= chunk
    with ledger.write() as connection:
        insert_chunk = sa.insert(chunks).values(
            **columns, messages=len(begun), owner="a test", fence=1, lease_until=at, claimed_at=at, settled_at=at
        )
        connection.execute(insert_chunk)
        connection.execute(
            sa.update(attempts)
            .where(attempts.c.batch == batch, attempts.c.line.in_(begun), attempts.c.chunk.is_(None))
            .values(chunk=reference, begun_at=at)
        )


def query_plans(ledger: Ledger, ask: Callable[[sa.Connection], object]) -> list[str]:
    """How SQLite finds what ``ask`` asks for: one line a table or index it goes through."""
    asked: list[tuple[str, Any]] = []

    def note(_connection: object, _cursor: object, statement: str, parameters: Any, *_: object) -> None:
        asked.append((statement, parameters))

    with ledger.write() as connection:
        event.listen(connection, "before_cursor_execute", note)
        ask(connection)
        event.remove(connection, "before_cursor_execute", note)
        return [
            row.detail
            for statement, parameters in asked
            for row in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters)
        ]
