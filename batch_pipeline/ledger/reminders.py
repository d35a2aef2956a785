"""Reminders in the ledger: attempts of steps of their own, one of each a patient, made from the first message.

Who is reminded is decided in ``batch_pipeline.sending.reminders``.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

import sqlalchemy as sa

from batch_pipeline.ledger.dialects import insert, lock_in_order, one_of, one_of_texts, unindexed
from batch_pipeline.ledger.tables import (
    REMINDER_DUE_AT,
    REMINDER_OPEN,
    UNSENT,
    attempts,
    chunks,
    to_microseconds,
)
from batch_pipeline.rules import reminders as rules
from batch_pipeline.rules import steps
from batch_pipeline.rules.fragments import sms_fragments


class First(NamedTuple):
    """Of a first message, what its patient's reminders are made from: personal, so not for logs."""

    batch: str
    patient: str
    line: int
    nhs_number: str | None
    channel: str
    address: str | None
    fallback_number: str | None
    subject: str | None
    text: str | None
    sms_text: str | None
    address_hash: str | None

    def __repr__(self) -> str:
        return f"First({self.batch!r}, {self.line})"

    @classmethod
    def of(cls, row: sa.Row[Any]) -> "First":
        """From a row that begins with these columns, in this order."""
        return cls(*row[: len(cls._fields)])

    def content(self, channel: str) -> tuple[str, str] | None:
        """Address and text by the first message's channel, or by that of the text that followed; None once purged."""
        if channel == self.channel:
            address, text = self.address, self.text
        else:
            address, text = self.fallback_number, self.sms_text
        return None if address is None or text is None else (address, text)


# One by one: so are the indexes laid out.
_is_reminder = attempts.c.step.in_(steps.REMINDERS)
_begun = sa.and_(chunks.c.settled_at.is_(None), chunks.c.step.in_(steps.REMINDERS))


def is_due(now: datetime) -> tuple[sa.ColumnElement[bool] | sa.TextClause, ...]:
    """Condition on a first message: its patient's next reminder is due, or is to be left out."""
    # In the very words of the index, or it isn't found.
    due_at = sa.literal_column(REMINDER_DUE_AT, sa.BigInteger())
    return sa.text(REMINDER_OPEN), due_at <= to_microseconds(now)


def batches_due(connection: sa.Connection, now: datetime) -> set[str]:
    """Batches with a reminder that is due, paused ones among them."""
    batch = unindexed(attempts.c.batch).label("batch")
    return set(connection.scalars(sa.select(batch).where(*is_due(now)).distinct()))


def are_to_come(connection: sa.Connection, batch: str) -> bool:
    """Whether any patient of a batch may yet be reminded."""
    query = sa.select(sa.literal(1)).where(unindexed(attempts.c.batch) == batch, sa.text(REMINDER_OPEN)).limit(1)
    return connection.scalar(query) is not None


def unfinished_steps(connection: sa.Connection, batch: str) -> list[str]:
    """The steps of a batch's reminders that are queued, or in chunks that are open; the earliest first."""
    queued = sa.select(attempts.c.step).where(attempts.c.batch == batch, _is_reminder, sa.text(UNSENT)).distinct()
    begun = sa.select(chunks.c.step).where(chunks.c.batch == batch, _begun)
    return sorted({*connection.scalars(queued), *connection.scalars(begun)})


def row_of(
    first: First,
    content: tuple[str, str],
    *,
    step: str,
    channel: str,
    provider: str,
    reference: str,
    policy: str,
    at: datetime,
) -> dict[str, Any]:
    """A reminder's row of ``attempts``; ``content``: address and text of ``First.content`` by its channel."""
    address, text = content[0], rules.text_of(channel, content[1])
    by_sms = channel == "sms"
    return {
        "batch": first.batch,
        "patient": first.patient,
        "line": first.line,
        "nhs_number": first.nhs_number,
        "step": step,
        "channel": channel,
        "provider": provider,
        "reference": reference,
        "address": address,
        "subject": rules.subject_of(first.subject),
        "text": text,
        "address_hash": first.address_hash if by_sms else None,
        "fragments": sms_fragments(text).parts if by_sms else 0,
        "queued_at": at,
        "policy": policy,
    }


def queue(connection: sa.Connection, rows: Sequence[Mapping[str, Any]]) -> None:
    """Queues reminders; one that is there already stays as it is."""
    if rows:
        # One of a step a patient, whatever happens: UNIQUE(batch, patient, step).
        connection.execute(insert(connection, attempts).on_conflict_do_nothing(), list(rows))


def set_days(connection: sa.Connection, days: Mapping[int, int | None]) -> None:
    """Sets on which day the next reminder is due, by the id of the first message."""
    if days:
        lock_in_order(
            connection, attempts, sa.select(attempts.c.id).where(one_of(connection, attempts.c.id, list(days)))
        )
    for day in set(days.values()):
        firsts = one_of(connection, attempts.c.id, [first for first, its_day in days.items() if its_day == day])
        connection.execute(sa.update(attempts).where(firsts).values(reminder_day=day))


def take_back(connection: sa.Connection, batch: str, whose: sa.ColumnElement[bool] | None = None) -> int:
    """Takes back every reminder that isn't begun: it is due again, and decided anew; gives how many.

    ``whose``: condition on the row of a reminder.
    """
    unsent = sa.and_(attempts.c.batch == batch, _is_reminder, sa.text(UNSENT), *(() if whose is None else (whose,)))
    lock_in_order(connection, attempts, sa.select(attempts.c.id).where(unsent))
    taken = connection.execute(sa.delete(attempts).where(unsent).returning(attempts.c.patient, attempts.c.step)).all()
    firsts = sa.and_(attempts.c.batch == batch, attempts.c.step == steps.PRIMARY)

    def of(patients: Sequence[str]) -> sa.ColumnElement[bool]:
        return sa.and_(firsts, one_of_texts(connection, attempts.c.patient, patients))

    if taken:  # those of all steps in one order: of each step by itself, two could wait for each other
        lock_in_order(connection, attempts, sa.select(attempts.c.id).where(of([row.patient for row in taken])))
    for step in sorted({row.step for row in taken}, reverse=True):  # of several, the earliest is due first
        patients = [row.patient for row in taken if row.step == step]
        connection.execute(sa.update(attempts).where(of(patients)).values(reminder_day=steps.day_of(step)))
    return len(taken)


def end(connection: sa.Connection, batch: str) -> None:
    """Ends a batch's reminders: none is queued any more, and those that aren't begun are gone."""
    connection.execute(sa.delete(attempts).where(attempts.c.batch == batch, _is_reminder, sa.text(UNSENT)))
    firsts = sa.and_(attempts.c.batch == batch, attempts.c.reminder_day.is_not(None))
    lock_in_order(connection, attempts, sa.select(attempts.c.id).where(firsts))
    connection.execute(sa.update(attempts).where(firsts).values(reminder_day=None))
