"""The outbox: one row for every message of an approved plan, on disk before any provider is called (SPEC 2.7)."""

import secrets
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from batch_pipeline.errors import Refused
from batch_pipeline.ledger import batches as batches_
from batch_pipeline.ledger import links
from batch_pipeline.ledger.dialects import insert_many, refresh_statistics
from batch_pipeline.ledger.engine import Ledger
from batch_pipeline.ledger.tables import Instant, attempts, batches, to_microseconds


class Column(Protocol):
    """A column of a ``pyarrow.RecordBatch``."""

    def to_pylist(self) -> list[Any]:
        """Its values."""
        ...


class RecordBatch(Protocol):
    """What is needed of a ``pyarrow.RecordBatch`` (pyarrow itself comes without types)."""

    def column(self, i: str) -> Column:
        """The column of that name."""
        ...


GIVEN = (
    "line",
    "nhs_number",
    "patient",
    "path",
    "provider",
    "address",
    "address_hash",
    "fallback_number",
    "subject",
    "text",
    "sms_text",
    "fragments",
    "held_back",
    "policy",
    "fallback_after",
    "reminder_day",
)
"""The columns of a plan's rows. ``patient`` and ``address_hash`` are keyed hashes, ``fallback_after`` microseconds."""

_CONTENT = (
    "line",
    "nhs_number",
    "channel",
    "provider",
    "address",
    "address_hash",
    "fallback_number",
    "subject",
    "text",
    "sms_text",
    "fragments",
    "policy",
    "fallback_after",
    "reminder_day",
)
"""What of an attempt a new plan may change, as long as the attempt isn't begun; and being held back.

Never its reference: of a message that a person said wasn't sent, a receipt may tell under it that it was.
"""

_STAGED = ("patient", "reference", *_CONTENT, "held_back_at")

# Not begun, not at an end that a person or the clock has given it, and not known from receipts to have been sent.
_may_change = sa.and_(
    *(attempts.c[name].is_(None) for name in ("chunk", "cancelled_at", "expired_at")),
    *(attempts.c[name].is_(None) for name in ("accepted_at", "delivered_at", "read_at", "failed_at")),
)

_Rows = list[tuple[Any, ...]]

# The rows of a later plan, for the length of one write: laid out like the outbox they are compared with.
_staged = sa.Table(
    "outbox_staged",
    sa.MetaData(),
    sa.Column("patient", sa.Text, primary_key=True),
    sa.Column("reference", sa.Text, nullable=False),
    *(sa.Column(name, attempts.c[name].type, unique=name == "line") for name in _CONTENT),
    sa.Column("held_back_at", attempts.c.held_back_at.type),
    prefixes=["TEMPORARY"],
)


@dataclass(frozen=True, slots=True)
class OutboxWritten:
    """How many messages a plan added, moved (another channel, address or text), took out, and left as they were."""

    added: int
    moved: int
    removed: int
    unchanged: int


def _series(batch: str) -> str:
    return f"{batch}:{secrets.token_hex(4)}"


def write(
    ledger: Ledger,
    batch: str,
    plan_hash: str,
    rows: Iterable[RecordBatch],
    now: datetime,
    *,
    series: Callable[[str], str] = _series,
) -> OutboxWritten:
    """Writes the outbox from an approved plan, in one transaction.

    The same plan again changes nothing. A later plan adds patients, and moves or removes those whose attempt isn't
    begun; an attempt that is begun stays as it is, for ever. Messages whose links are revoked are cancelled before
    anybody can claim them. ``Refused`` unless the plan is the batch's current one and approved, and for a cancelled
    batch. ``rows``: record batches with the columns ``GIVEN``.

    ``series`` gives, for a batch, what this write's references begin with, unlike those of any other write, also in
    another home or in a ledger that was lost: with one account at a provider they share what it holds and tells, and
    "it is already there" would be said of a message that never went. The rest is for people who look at one.
    """
    begin = series(batch)
    with ledger.connect() as connection:
        with ledger.writing(connection):
            applied = _applied_plan(connection, batch, plan_hash)
            if applied == plan_hash:
                return OutboxWritten(0, 0, 0, _count(connection, batch))
            if applied is None:
                return _write_first(connection, batch, plan_hash, _values(rows, begin, now), now)
        return _write_later(ledger, connection, batch, plan_hash, _values(rows, begin, now), now)


def _applied_plan(connection: sa.Connection, batch: str, plan_hash: str) -> str | None:
    """The plan that the outbox was written from, if any; ``Refused`` where ``plan_hash`` may not be applied."""
    known = batches_.get(connection, batch, lock=True)
    if known.cancelled_at is not None:
        raise Refused(f"batch {batch} is cancelled: nothing more of it can be sent")
    if known.current_plan != plan_hash:
        raise Refused(f"batch {batch}: the plan has changed since it was approved: review and approve it again")
    if batches_.approval(connection, batch) is None:
        raise Refused(f"batch {batch}: plan {plan_hash[:12]} isn't approved: review and approve it")
    return known.applied_plan


def _count(connection: sa.Connection, batch: str) -> int:
    query = sa.select(sa.func.count()).where(attempts.c.batch == batch, attempts.c.step == "primary")
    return connection.scalar(query) or 0


def _write_first(
    connection: sa.Connection, batch: str, plan_hash: str, rows: Iterable[_Rows], now: datetime
) -> OutboxWritten:
    """Straight into the outbox: nothing there to compare with."""
    fixed = (batch, "primary", to_microseconds(now))
    added = 0
    with _one_row_a_patient(batch):
        for some in rows:
            given = [(*fixed, *row) for row in some]
            insert_many(connection, attempts, ("batch", "step", "queued_at", *_STAGED), given)
            added += len(given)
    _set_applied(connection, batch, plan_hash)
    links.withdraw_revoked(connection, batch, now)
    return OutboxWritten(added, 0, 0, 0)


def _write_later(
    ledger: Ledger,
    connection: sa.Connection,
    batch: str,
    plan_hash: str,
    rows: Iterable[_Rows],
    now: datetime,
) -> OutboxWritten:
    """By way of a temporary table, so that the ledger is locked for the comparison alone."""
    staged = 0
    with ledger.reading(connection):
        _staged.drop(connection, checkfirst=True)
        _staged.create(connection)
        with _one_row_a_patient(batch):
            for given in rows:
                insert_many(connection, _staged, _STAGED, given)
                staged += len(given)
    with ledger.writing(connection):
        _applied_plan(connection, batch, plan_hash)  # again: it may have changed meanwhile
        _refuse_other_patients(connection, batch)
        removed = _remove(connection, batch)
        moved = _move(connection, batch)
        added = _add(connection, batch, now)
        _set_applied(connection, batch, plan_hash)
        links.withdraw_revoked(connection, batch, now)
        _staged.drop(connection)
    return OutboxWritten(added, moved, removed, staged - added - moved)


def _values(rows: Iterable[RecordBatch], begin: str, now: datetime) -> Iterator[_Rows]:
    """A plan's rows as rows of ``_STAGED``, each record batch's by themselves."""
    held_back = to_microseconds(now)
    for record_batch in rows:
        given: dict[str, list[Any]] = {name: record_batch.column(name).to_pylist() for name in GIVEN}
        given["channel"] = given["path"]
        given["reference"] = [f"{begin}:{line}:primary" for line in given["line"]]
        given["held_back_at"] = [held_back if held else None for held in given["held_back"]]
        yield list(zip(*(given[name] for name in _STAGED), strict=True))


@contextmanager
def _one_row_a_patient(batch: str) -> Generator[None]:
    try:
        yield
    except IntegrityError:  # whose own words may quote the row
        raise Refused(
            f"batch {batch}: the plan names a patient or a line twice, or leaves a needed value out: "
            "make the plan again, and report this as a fault if it happens again"
        ) from None


def _refuse_other_patients(connection: sa.Connection, batch: str) -> None:
    """A line whose message went to one patient can't belong to another now: then the hash key isn't the old one."""
    query = sa.select(sa.func.count()).where(
        attempts.c.batch == batch,
        attempts.c.step == "primary",
        attempts.c.chunk.is_not(None),
        attempts.c.line == _staged.c.line,
        attempts.c.patient != _staged.c.patient,
    )
    if connection.scalar(query):
        raise Refused(
            f"batch {batch}: the plan gives lines already sent to other patients than before: "
            "was the cohort or the hash key changed? Put it back"
        )


def _open(batch: str) -> sa.ColumnElement[bool]:
    """The attempts that a new plan may touch."""
    return sa.and_(attempts.c.batch == batch, attempts.c.step == "primary", _may_change)


def _remove(connection: sa.Connection, batch: str) -> int:
    kept = sa.exists().where(_staged.c.patient == attempts.c.patient)
    return connection.execute(sa.delete(attempts).where(_open(batch), ~kept)).rowcount


def _move(connection: sa.Connection, batch: str) -> int:
    """Held-back rows keep the moment since when they are, so that the same plan again changes nothing."""
    held = sa.case((_staged.c.held_back_at.is_(None), None), else_=attempts.c.held_back_at)
    changed = sa.or_(
        *(attempts.c[name].is_distinct_from(_staged.c[name]) for name in _CONTENT),
        attempts.c.held_back_at.is_(None) != _staged.c.held_back_at.is_(None),
    )
    statement = (
        sa.update(attempts)
        .where(_open(batch), attempts.c.patient == _staged.c.patient, changed)
        .values(
            {name: _staged.c[name] for name in _CONTENT}
            | {"held_back_at": sa.func.coalesce(held, _staged.c.held_back_at)}
        )
    )
    return connection.execute(statement).rowcount


def _add(connection: sa.Connection, batch: str, now: datetime) -> int:
    there = sa.exists().where(
        attempts.c.batch == batch, attempts.c.step == "primary", attempts.c.patient == _staged.c.patient
    )
    new = sa.select(
        sa.literal(batch),
        sa.literal("primary"),
        sa.literal(now, Instant()),
        *(_staged.c[name] for name in _STAGED),
    ).where(~there)
    statement = sa.insert(attempts).from_select(
        ["batch", "step", "queued_at", *_STAGED], new.order_by(_staged.c.line), include_defaults=False
    )
    return connection.execute(statement, execution_options={"preserve_rowcount": True}).rowcount


def _set_applied(connection: sa.Connection, batch: str, plan_hash: str) -> None:
    connection.execute(sa.update(batches).where(batches.c.batch == batch).values(applied_plan=plan_hash))
    batches_.mark_changed(connection, batch)
    refresh_statistics(connection, attempts)


def withdraw(ledger: Ledger, batch: str, patients: Mapping[str, Collection[str]], now: datetime) -> int:
    """Cancels the messages of these patients (keyed hashes, by channel) that aren't begun; gives how many."""
    withdrawn = 0
    for channel, chosen in patients.items():
        ordered = sorted(chosen)
        for start in range(0, len(ordered), _AT_ONCE):
            mine = sa.and_(
                attempts.c.batch == batch,
                attempts.c.step == "primary",
                attempts.c.channel == channel,
                attempts.c.patient.in_(ordered[start : start + _AT_ONCE]),
                attempts.c.held_back_at.is_(None),
                _may_change,
            )
            with ledger.write() as connection:
                withdrawn += connection.execute(sa.update(attempts).where(mine).values(cancelled_at=now)).rowcount
    return withdrawn


_AT_ONCE = 500
"""Patients named in one statement: databases bound the number of parameters."""
