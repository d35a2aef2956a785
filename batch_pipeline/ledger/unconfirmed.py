"""Messages that may or may not have been sent, and what a person found out about them (SPEC 2.7)."""

from collections.abc import Collection
from datetime import datetime
from typing import NamedTuple

import sqlalchemy as sa

from batch_pipeline.errors import Refused
from batch_pipeline.ledger import audit, controls, links
from batch_pipeline.ledger import batches as batches_
from batch_pipeline.ledger.dialects import lock_in_order, smaller
from batch_pipeline.ledger.tables import attempts, chunks, receipts, tells_of_attempt
from batch_pipeline.rules.states import attempt_state_sql


class Unconfirmed(NamedTuple):
    """One such message; nothing personal."""

    line: int
    step: str
    channel: str
    provider: str
    begun_at: datetime
    reference: str
    chunk: str


def unconfirmed(connection: sa.Connection, batch: str) -> list[Unconfirmed]:
    """The batch's unconfirmed messages by line; ``Refused`` for an unknown batch."""
    batches_.get(connection, batch)
    return [Unconfirmed(*row) for row in connection.execute(_unconfirmed(batch))]


def _unconfirmed(batch: str) -> sa.Select[tuple[int, str, str, str, datetime, str, str]]:
    """Those in a chunk that no process can post any more, and of which nothing waits to be folded."""
    closed = sa.exists().where(chunks.c.reference == attempts.c.chunk, chunks.c.settled_at.is_not(None))
    news = sa.exists().where(receipts.c.folded_at.is_(None), tells_of_attempt())
    return (
        sa.select(*(attempts.c[name] for name in Unconfirmed._fields))
        .where(
            attempts.c.batch == batch,
            attempts.c.unconfirmed_at.is_not(None),
            sa.literal_column(attempt_state_sql("attempts")) == "unconfirmed",
            closed,
            ~news,
        )
        .order_by(attempts.c.line, attempts.c.step)
    )


def resolve(
    connection: sa.Connection, batch: str, lines: Collection[int], by: str, now: datetime, *, sent: bool
) -> list[Unconfirmed]:
    """Records what a person found out about unconfirmed messages: those of the lines, or all; gives them.

    ``sent``: they were accepted when they were begun. Otherwise they are unsent again, and go in a new chunk; those
    of a cancelled batch, or with a revoked link, are cancelled. Receipts that come later count as ever.

    ``Refused``, and nothing recorded, where a line has no unconfirmed message; and for all of a batch that is being
    sent, as more may become unconfirmed than the person has seen.
    """
    batches_.get(connection, batch, lock=True)
    lock_in_order(connection, attempts, _unconfirmed(batch).with_only_columns(attempts.c.id).order_by(None))
    found = [Unconfirmed(*row) for row in connection.execute(_unconfirmed(batch))]
    _refuse_others(batch, lines, found)
    if not lines and _being_sent(connection, batch):
        raise Refused(
            f"batch {batch} is being sent, so more messages may become unconfirmed than you have seen: "
            "name those that you mean with --line"
        )
    chosen = [each for each in found if not lines or each.line in lines]
    if sent:
        _set_accepted(connection, chosen)
    else:
        _set_unsent(connection, chosen)
    for each in chosen:
        detail = {
            "line": each.line,
            "step": each.step,
            "channel": each.channel,
            "provider": each.provider,
            "chunk": each.chunk,
            "found": "sent" if sent else "not sent",
        }
        audit.record(connection, now, by, "resolve", batch, detail)
    if chosen:
        batches_.mark_changed(connection, batch)
        controls.end_unsent_if_cancelled(connection, batch, now)
        links.withdraw_revoked(connection, batch, now)
    return chosen


def _refuse_others(batch: str, lines: Collection[int], found: list[Unconfirmed]) -> None:
    others = sorted(set(lines) - {each.line for each in found})
    if others:
        raise Refused(
            f"batch {batch}: nothing is unconfirmed of line {', '.join(map(str, others))}: look at "
            f"`batch-pipeline resolve {batch}` for those that are"
        )


def _being_sent(connection: sa.Connection, batch: str) -> bool:
    query = sa.select(sa.literal(1)).where(chunks.c.batch == batch, chunks.c.settled_at.is_(None)).limit(1)
    return connection.scalar(query) is not None


def _set_accepted(connection: sa.Connection, chosen: list[Unconfirmed]) -> None:
    """They keep the moment since when they were unconfirmed; the rule looks at the acceptance first."""
    if chosen:
        connection.execute(
            sa.update(attempts)
            .where(attempts.c.reference == sa.bindparam("which"))
            .values(accepted_at=smaller(attempts.c.accepted_at, attempts.c.begun_at)),
            [{"which": each.reference} for each in chosen],
        )


def _set_unsent(connection: sa.Connection, chosen: list[Unconfirmed]) -> None:
    if chosen:
        connection.execute(
            sa.update(attempts)
            .where(attempts.c.reference == sa.bindparam("which"))
            .values(chunk=None, begun_at=None, unconfirmed_at=None),
            [{"which": each.reference} for each in chosen],
        )
