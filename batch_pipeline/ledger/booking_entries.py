"""What of the bookings goes to patients' records, and when: the due half of ``records`` for appointments (SPEC 2.13).

A booking's entry is due as soon as it is made; one that ended before anybody set out to write it has none. Once it has
one, its end has another, under ``IDENTIFIER:ended``. Declining can be taken back as long as the link lives: its entry is
due when that is over.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple

import sqlalchemy as sa

from batch_pipeline.ledger.dialects import one_of_texts
from batch_pipeline.ledger.records import Due
from batch_pipeline.ledger.tables import (
    OVER,
    attempts,
    batches,
    bookings,
    links,
    record_entries,
    slots,
    to_microseconds,
)
from batch_pipeline.rules.links import life_of
from batch_pipeline.rules.slots import Slot

ENDED = ":ended"


class Facts(NamedTuple):
    """All that is told of one booking in the record: personal, so not for logs."""

    identifier: str
    nhs_number: str | None
    slot: Slot | None
    made_at: datetime
    ended_because: str | None

    def __repr__(self) -> str:
        return f"Facts({self.identifier!r})"


def due(batch: str, now: datetime) -> Due:
    """What may be written of a batch's bookings by now, whether or not it is; the end of one after its beginning."""
    return _due(now, bookings.c.batch == batch)


def _due(now: datetime, which: sa.ColumnElement[bool]) -> Due:
    begun = record_entries.alias("begun")
    has_entry = sa.exists().where(begun.c.identifier == bookings.c.identifier)
    is_open, is_slot = bookings.c.ended_at.is_(None), bookings.c.slot.is_not(None)
    stands = sa.or_(is_open, bookings.c.ended_because == OVER)
    parts = (
        _part(bookings.c.identifier, 0).where(which, is_slot, stands),
        _part(bookings.c.identifier + ENDED, 1).where(which, is_slot, ~stands, has_entry),
        _part(bookings.c.identifier, 0).where(which, ~is_slot, is_open, _link_is_over(now)),
    )
    every = sa.union_all(*parts).subquery("of_bookings")
    return sa.select(every.c.position, every.c.identifier, every.c.line, every.c.batch)  # pyright: ignore[reportReturnType]


def _part(identifier: sa.ColumnElement[str], place: int) -> sa.Select[int, str, int, str]:
    position = (2 * bookings.c.id + place).label("position")
    return sa.select(position, identifier.label("identifier"), bookings.c.line, bookings.c.batch)


def _link_is_over(now: datetime) -> sa.ColumnElement[bool]:
    mine = sa.and_(attempts.c.batch == bookings.c.batch, attempts.c.patient == bookings.c.patient)
    sent_at = sa.select(sa.func.max(sa.type_coerce(attempts.c.begun_at, sa.BigInteger))).where(mine).scalar_subquery()
    revoked = sa.exists().where(
        links.c.batch == bookings.c.batch,
        links.c.patient == bookings.c.patient,
        batches.c.batch == bookings.c.batch,
        sa.or_(links.c.revoked_at.is_not(None), batches.c.links_revoked_at.is_not(None)),
    )
    return sa.or_(sent_at <= to_microseconds(now - life_of("self_book", None).in_all), revoked)


def with_entries_due(connection: sa.Connection, now: datetime) -> set[str]:
    """Batches of which a booking, or its end, has no entry yet and may have one by now."""
    some = _due(now, sa.true()).subquery("some")
    no_entry = ~sa.exists().where(record_entries.c.identifier == some.c.identifier)
    return set(connection.scalars(sa.select(some.c.batch).where(no_entry).distinct()))


def facts(connection: sa.Connection, identifiers: Sequence[str]) -> list[Facts]:
    """What there is to write of these bookings; of each the beginning and the end are the same row."""
    known = sorted({each.removesuffix(ENDED) for each in identifiers})
    mine = sa.and_(
        attempts.c.batch == bookings.c.batch, attempts.c.patient == bookings.c.patient, attempts.c.step == "primary"
    )
    query = (
        sa.select(
            *(bookings.c.identifier, attempts.c.nhs_number, bookings.c.made_at, bookings.c.ended_because),
            *(slots.c.slot, slots.c.starts_at, slots.c.minutes, slots.c.clinician, slots.c.place, slots.c.capacity),
        )
        .join(attempts, mine)
        .outerjoin(slots, slots.c.id == bookings.c.slot)
        .where(one_of_texts(connection, bookings.c.identifier, known))
    )
    return [
        Facts(
            row.identifier, row.nhs_number, None if row.slot is None else Slot(*row[4:]), row.made_at, row.ended_because
        )
        for row in connection.execute(query)
    ]
