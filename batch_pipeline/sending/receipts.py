"""Receipts: stored once each, and folded into their attempts so that order and repeats make no difference.

A receipt sets its own column of the attempt to the earliest moment of its kind. What the attempt *is* follows from
the columns (``batch_pipeline.rules.states``), so a late receipt corrects it by being there.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa

from batch_pipeline.ledger import batches
from batch_pipeline.ledger.dialects import (
    insert,
    insert_unknown,
    lock_in_order,
    one_of,
    refresh_statistics,
    smaller,
    unindexed,
)
from batch_pipeline.ledger.engine import Ledger
from batch_pipeline.ledger.tables import (
    SMS_OPEN,
    Instant,
    attempts,
    patient_marks,
    receipts,
    tells_of_attempt,
    to_microseconds,
)
from batch_pipeline.providers.protocol import Receipt, ReceiptSource
from batch_pipeline.rules.failure_codes import mark_of
from batch_pipeline.rules.policy import SMS_TIMEOUT, sms_timeout_cutoff

AT_ONCE = 20_000
"""Receipts folded in one transaction: the ledger's other writers wait no longer than that."""
_MANY = 1_000


@dataclass(frozen=True, slots=True)
class Folded:
    """How many receipts were folded, and how many wait for an attempt that isn't known."""

    folded: int
    unknown: int


class NotHeard(Exception):
    """Some providers' receipts couldn't be fetched, or stored; those of the others were."""

    def __init__(self, faults: Mapping[str, Exception]) -> None:
        super().__init__("; ".join(f"{name}: {type(fault).__name__}" for name, fault in faults.items()))
        self.faults = faults
        """By provider."""


def collect(ledger: Ledger, sources: Iterable[ReceiptSource], now: datetime) -> int:
    """Stores what waits at the providers; gives how many receipts were new.

    A provider forgets a receipt only after it is on disk here. Each is asked whatever becomes of another, and at the
    end ``NotHeard`` says of which there may be more.
    """
    new, faults = 0, dict[str, Exception]()
    for source in sources:
        try:
            for batch in source.receipts(now):
                new += store(ledger, source.name, batch, now)
        except Exception as fault:  # noqa: BLE001 - whatever it is, the others have to be heard, and it is raised then
            faults[source.name] = fault
    if faults:
        raise NotHeard(faults) from next(iter(faults.values()))
    return new


def store(ledger: Ledger, provider: str, batch: Iterable[Receipt], now: datetime) -> int:
    """Stores a provider's receipts that aren't stored yet; gives how many were new."""
    return store_all(ledger, ((provider, receipt) for receipt in batch), now)


def store_all(ledger: Ledger, told: Iterable[tuple[str, Receipt]], now: datetime) -> int:
    """Stores receipts, each with its provider's name, that aren't stored yet: all or none. Gives how many were new."""
    received_at = to_microseconds(now)
    rows = [
        (
            provider,
            receipt.provider_key,
            receipt.reference,
            receipt.kind,
            receipt.failure_kind,
            receipt.failure_code,
            to_microseconds(receipt.occurred_at),
            received_at,
        )
        for provider, receipt in told
    ]
    if not rows:
        return 0
    with ledger.write() as connection:
        before = connection.scalar(_LAST) or 0
        insert_unknown(connection, receipts, _STORED, rows)
        return connection.scalar(_SINCE, {"before": before}) or 0


_STORED = (
    "provider",
    "provider_key",
    "reference",
    "kind",
    "failure_kind",
    "failure_code",
    "occurred_at",
    "received_at",
)
_LAST = sa.select(sa.func.max(receipts.c.id))
_SINCE = sa.select(sa.func.count()).where(receipts.c.id > sa.bindparam("before"))


def waiting(connection: sa.Connection) -> int:
    """How many stored receipts could be folded now."""
    return connection.scalar(sa.select(sa.func.count()).where(receipts.c.folded_at.is_(None), _known())) or 0


def _known() -> sa.ColumnElement[bool]:
    return sa.exists().where(tells_of_attempt())


def fold(ledger: Ledger, now: datetime, batch: str | None = None) -> Folded:
    """Folds the stored receipts, of one batch or of all, into their attempts.

    The state that comes out hangs neither on their order nor on repeats, nor on how many folds they are spread over.
    Those of an unknown attempt stay, and are tried again each time. A batch that was reported on and saved is so no
    longer, if any are of it: in the same transaction, or a process that dies would leave it so for ever.
    """
    folded, after = 0, 0
    while True:
        with ledger.write() as connection:
            last = _last_of_slice(connection, after)
            if last is None:
                if folded >= _MANY:
                    refresh_statistics(connection, attempts)
                return Folded(folded, _unknown(connection))
            mine = _mine(batch)
            ids = _ids(connection, after, last, mine)
            if ids and batch is not None:  # before its messages are locked, as whoever cancels it does
                batches.reopen(connection, batch)
            these = one_of(connection, receipts.c.id, ids)
            lock_in_order(
                connection, attempts, sa.select(attempts.c.id).join(receipts, tells_of_attempt()).where(these)
            )
            for kind, column in _COLUMNS.items():
                _set_earliest(connection, kind, column, these, mine)
            _set_earliest_failure(connection, these, mine)
            _mark_patients(connection, these, mine)
            folded += _set_folded(connection, these, now)
        after = last


_COLUMNS = {"accepted": "accepted_at", "delivered": "delivered_at", "read": "read_at"}
"""Failures have a kind and a code beside their moment, and a function of their own."""


def _ids(connection: sa.Connection, after: int, last: int, mine: sa.ColumnElement[bool]) -> list[int]:
    """The receipts to fold, found once: on PostgreSQL each statement sees what others have committed since.

    A receipt, or its attempt, that came between two statements would be marked as folded, and be in no column.
    """
    query = (
        sa.select(receipts.c.id)
        .join(attempts, tells_of_attempt())
        .where(receipts.c.folded_at.is_(None), receipts.c.id > after, receipts.c.id <= last, mine)
        .order_by(receipts.c.id)
        .with_for_update(of=receipts)
    )
    return list(connection.scalars(query))


def _mine(batch: str | None) -> sa.ColumnElement[bool]:
    return sa.true() if batch is None else unindexed(attempts.c.batch) == batch


def _set_folded(connection: sa.Connection, these: sa.ColumnElement[bool], now: datetime) -> int:
    # Not one whose attempt was taken back meanwhile: it comes again under the same reference.
    return connection.execute(sa.update(receipts).where(these, _known()).values(folded_at=now)).rowcount


def _last_of_slice(connection: sa.Connection, after: int) -> int | None:
    some = (
        sa.select(receipts.c.id)
        .where(receipts.c.folded_at.is_(None), receipts.c.id > after)
        .order_by(receipts.c.id)
        .limit(AT_ONCE)
        .subquery()
    )
    return connection.scalar(sa.select(sa.func.max(some.c.id)))


def _unknown(connection: sa.Connection) -> int:
    return connection.scalar(sa.select(sa.func.count()).where(receipts.c.folded_at.is_(None), ~_known())) or 0


def _set_earliest(
    connection: sa.Connection, kind: str, column: str, these: sa.ColumnElement[bool], mine: sa.ColumnElement[bool]
) -> None:
    told = (
        sa.select(
            receipts.c.provider,
            receipts.c.reference,
            sa.func.min(receipts.c.occurred_at, type_=Instant()).label("at"),
        )
        .where(these, receipts.c.kind == kind)
        .group_by(receipts.c.provider, receipts.c.reference)
        .subquery("told")
    )
    connection.execute(
        sa.update(attempts).where(tells_of_attempt(told), mine).values({column: smaller(attempts.c[column], told.c.at)})
    )


def _set_earliest_failure(
    connection: sa.Connection, these: sa.ColumnElement[bool], mine: sa.ColumnElement[bool]
) -> None:
    """Kind and code go with the earliest failure; of two at one moment, with the first by kind and code."""
    order = (receipts.c.occurred_at, _text(receipts.c.failure_kind), _text(receipts.c.failure_code))
    one_message = (receipts.c.provider, receipts.c.reference)
    numbered = (
        sa.select(
            receipts.c.provider,
            receipts.c.reference,
            receipts.c.occurred_at.label("at"),
            receipts.c.failure_kind.label("kind"),
            receipts.c.failure_code.label("code"),
            sa.func.row_number().over(partition_by=one_message, order_by=order).label("place"),
        )
        .where(these, receipts.c.kind == "failed")
        .subquery("numbered")
    )
    told = sa.select(numbered).where(numbered.c.place == 1).subquery("told")
    known = sa.tuple_(attempts.c.failed_at, _text(attempts.c.failure_kind), _text(attempts.c.failure_code))
    earlier = sa.or_(
        attempts.c.failed_at.is_(None), sa.tuple_(told.c.at, _text(told.c.kind), _text(told.c.code)) < known
    )
    connection.execute(
        sa.update(attempts)
        .where(tells_of_attempt(told), mine, earlier)
        .values(failed_at=told.c.at, failure_kind=told.c.kind, failure_code=told.c.code)
    )


def _text(column: sa.ColumnElement[Any]) -> sa.ColumnElement[Any]:
    return sa.func.coalesce(column, "")


def _mark_patients(connection: sa.Connection, these: sa.ColumnElement[bool], mine: sa.ColumnElement[bool]) -> None:
    """Remembers, for later batches, the patients whose failure says that they are dead, gone or not to be found."""
    codes = connection.scalars(
        sa.select(receipts.c.failure_code).where(these, receipts.c.failure_code.is_not(None)).distinct()
    )
    for code in sorted(code for code in codes if mark_of(code)):
        told = (
            sa.select(
                attempts.c.patient,
                sa.literal(mark_of(code)),
                sa.func.min(receipts.c.occurred_at),
                sa.literal(code),
            )
            .join_from(receipts, attempts, tells_of_attempt())
            .where(these, mine, receipts.c.failure_code == code)
            .group_by(attempts.c.patient)
        )
        row = insert(connection, patient_marks).from_select(["patient", "mark", "marked_at", "source"], told)
        connection.execute(
            row.on_conflict_do_update(
                index_elements=["patient", "mark"],
                set_={"marked_at": row.excluded.marked_at, "source": row.excluded.source},
                where=sa.tuple_(row.excluded.marked_at, row.excluded.source)
                < sa.tuple_(patient_marks.c.marked_at, patient_marks.c.source),
            )
        )


def time_out(ledger: Ledger, now: datetime, batch: str | None = None) -> int:
    """Ends every SMS that nothing was heard of for as long as its provider's rule says; gives how many.

    A late receipt corrects that: states look at what was told before they look at the time-out.
    """
    open_ones = [sa.text(SMS_OPEN)] if batch is None else [sa.text(SMS_OPEN), unindexed(attempts.c.batch) == batch]
    with ledger.read() as connection:
        earliest = _earliest_open(connection)
        if earliest is None or earliest > now - SMS_TIMEOUT:
            return 0
        overdue = sa.select(attempts.c.provider).where(*open_ones, attempts.c.accepted_at <= now - SMS_TIMEOUT)
        providers = list(connection.scalars(overdue.distinct()))
    ended = 0
    for provider in providers:
        cutoff = sms_timeout_cutoff(provider, now)
        silent = (*open_ones, attempts.c.provider == provider, attempts.c.accepted_at <= cutoff)
        # 72 hours; as much more as the provider's nights and weekends came to.
        after = (now - cutoff) // timedelta(microseconds=1)
        with ledger.write() as connection:
            lock_in_order(connection, attempts, sa.select(attempts.c.id).where(*silent))
            ended += connection.execute(
                sa.update(attempts)
                .where(*silent)
                .values(timed_out_at=sa.type_coerce(attempts.c.accepted_at, sa.BigInteger) + after)
            ).rowcount
    return ended


def _earliest_open(connection: sa.Connection) -> datetime | None:
    """When the SMS was accepted that waits longest to be heard of."""
    return connection.scalar(sa.select(sa.func.min(attempts.c.accepted_at)).where(sa.text(SMS_OPEN)))
