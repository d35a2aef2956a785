"""Pausing, resuming and cancelling: what a person, or the circuit breaker, decides about sending (SPEC 2.7).

A batch is paused by itself, or with all others by the general pause, which holds for batches made later too. Neither
is looked at but through ``is_paused``. The dispatcher asks before each claim and each call, so a pause acts within
one chunk.
"""

import json
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

import sqlalchemy as sa

from batch_pipeline.errors import Refused
from batch_pipeline.ledger import audit, reminders
from batch_pipeline.ledger import batches as batches_
from batch_pipeline.ledger.dialects import insert
from batch_pipeline.ledger.tables import UNSENT, attempts, batches, facts, general_pause

BREAKER = "circuit breaker"
"""Who paused a batch whose channel failed too often. No person may go by that name."""
RESTORED = "restored ledger"
"""Who paused all, because the ledger was restored from a copy. No person may go by that name either."""
_HOLD = "reconcile"
"""The fact that a ledger has to be reconciled with its providers."""


@dataclass(frozen=True, slots=True)
class Pause:
    """Who paused a batch, or all, when and why."""

    at: datetime
    by: str
    because: str | None
    of_all: bool


@dataclass(frozen=True, slots=True)
class Hold:
    """Why a ledger has to be reconciled with its providers before it sends anything, and when that was found."""

    at: datetime
    because: str
    by: str | None
    """Who said so; ``None`` where the claims journal did."""


class Paused(NamedTuple):
    """The pause that stands now, and whether it is this call's."""

    pause: Pause
    new: bool


@dataclass(frozen=True, slots=True)
class Cancelled:
    """How a batch is cancelled, and what this call ended."""

    at: datetime
    by: str
    with_fallbacks: bool
    new: bool
    messages: int = 0
    """That were not begun."""
    fallbacks: int = 0
    """That were queued and not begun."""
    reminders: bool = False
    """Whether it would have reminded anybody yet."""


def is_paused() -> sa.ColumnElement[bool]:
    """SQL condition on a row of ``batches``: nothing of it may be sent now."""
    return sa.or_(batches.c.paused_at.is_not(None), sa.exists().where(general_pause.c.paused_at.is_not(None)))


def standing(connection: sa.Connection, batch: str) -> Pause | None:
    """The pause that holds a batch; the general one goes first."""
    return general(connection) or _own(batches_.get(connection, batch))


def general(connection: sa.Connection) -> Pause | None:
    """The pause of all."""
    row = connection.execute(sa.select(general_pause)).one_or_none()
    return None if row is None else Pause(row.paused_at, row.paused_by, row.paused_because, of_all=True)


def _own(known: batches_.Batch) -> Pause | None:
    if known.paused_at is None:
        return None
    return Pause(known.paused_at, known.paused_by or "unknown", known.paused_because, of_all=False)


def pause(connection: sa.Connection, batch: str, by: str, because: str | None, now: datetime) -> Paused:
    """Pauses a batch; one that is paused by itself already stays as it is. ``Refused`` for an unknown batch."""
    standing_already = _own(batches_.get(connection, batch, lock=True))
    if standing_already is not None:
        return Paused(standing_already, new=False)
    connection.execute(
        sa.update(batches).where(batches.c.batch == batch).values(paused_at=now, paused_by=by, paused_because=because)
    )
    audit.record(connection, now, by, "pause", batch, {"because": because})
    return Paused(Pause(now, by, because, of_all=False), new=True)


def resume(connection: sa.Connection, batch: str, by: str, now: datetime) -> Pause | None:
    """Lifts a batch's own pause, and gives it; ``None`` when there is none. The general pause holds on.

    A cancelled batch stays cancelled, and is ``Refused`` unless it is paused: then what was sent goes on its course.
    After a pause by the circuit breaker, that counts anew.
    """
    known = batches_.get(connection, batch, lock=True)
    lifted = _own(known)
    if lifted is None and known.cancelled_at is not None:
        raise Refused(f"batch {batch} is cancelled, and that is final: submit it under a new batch id")
    if lifted is None:
        return None
    count_from = now if lifted.by == BREAKER else known.breaker_from
    connection.execute(
        sa.update(batches)
        .where(batches.c.batch == batch)
        .values(paused_at=None, paused_by=None, paused_because=None, breaker_from=count_from)
    )
    audit.record(connection, now, by, "resume", batch, {"paused_by": lifted.by})
    return lifted


def pause_all(connection: sa.Connection, by: str, because: str | None, now: datetime) -> Paused:
    """Pauses every batch there is and will be, until ``resume_all``; a general pause that stands stays as it is."""
    row = insert(connection, general_pause).values(scope="all", paused_at=now, paused_by=by, paused_because=because)
    new = connection.scalar(row.on_conflict_do_nothing().returning(general_pause.c.scope)) is not None
    standing_already = general(connection)
    if standing_already is not None and not new:
        return Paused(standing_already, new=False)
    audit.record(connection, now, by, "pause_all", None, {"because": because})
    return Paused(Pause(now, by, because, of_all=True), new=True)


def hold(connection: sa.Connection, because: str, now: datetime, by: str | None = None) -> Hold:
    """Pauses all until the ledger is reconciled, and a person resumes it after that; gives the hold that stands.

    A person's word takes the place of what the journal told, from when that was found.
    """
    pause_all(connection, RESTORED, because, now)
    row = insert(connection, facts).values(name=_HOLD, value=_told(Hold(now, because, by)))
    new = connection.scalar(row.on_conflict_do_nothing().returning(facts.c.name)) is not None
    standing_hold = held(connection) or Hold(now, because, by)
    if not new and by is not None and standing_hold.by is None:
        standing_hold, new = Hold(standing_hold.at, because, by), True
        connection.execute(sa.update(facts).where(facts.c.name == _HOLD).values(value=_told(standing_hold)))
    if new:
        audit.record(connection, now, by or RESTORED, "hold", None, {"because": because})
    return standing_hold


def _told(standing_hold: Hold) -> str:
    return json.dumps({"at": standing_hold.at.isoformat(), "because": standing_hold.because, "by": standing_hold.by})


def held(connection: sa.Connection) -> Hold | None:
    """The hold that stands, if any."""
    told = connection.scalar(sa.select(facts.c.value).where(facts.c.name == _HOLD))
    if told is None:
        return None
    known = json.loads(told)
    return Hold(datetime.fromisoformat(known["at"]), known["because"], known["by"])


def may_have_forgotten(connection: sa.Connection) -> bool:
    """Whether the ledger was restored from a copy, and people haven't let all go on since: nor have they decided again."""
    return bool(connection.scalar(_MAY_HAVE_FORGOTTEN))


# Asked at each request of each patient: made once.
_MAY_HAVE_FORGOTTEN = sa.select(
    sa.or_(
        sa.exists().where(facts.c.name == _HOLD),
        sa.exists().where(general_pause.c.paused_by == RESTORED),
    )
)


def release(connection: sa.Connection, by: str, now: datetime) -> None:
    """Lifts the hold. The pause of all stays for a person to lift."""
    connection.execute(sa.delete(facts).where(facts.c.name == _HOLD))
    audit.record(connection, now, by, "reconciled", None, {})


def resume_all(connection: sa.Connection, by: str, now: datetime) -> Pause | None:
    """Lifts the general pause, and gives it; ``None`` when there is none. Batches paused by themselves stay so.

    ``Refused`` for a ledger that has to be reconciled first.
    """
    standing_hold = held(connection)
    if standing_hold is not None:
        raise Refused(f"nothing may be sent yet: {standing_hold.because}")
    lifted = general(connection)
    if lifted is None:
        return None
    connection.execute(sa.delete(general_pause))
    audit.record(connection, now, by, "resume_all", None, {"paused_by": lifted.by})
    return lifted


def paused_by_themselves(connection: sa.Connection) -> list[str]:
    """The batches that the end of the general pause doesn't free."""
    query = sa.select(batches.c.batch).where(batches.c.paused_at.is_not(None)).order_by(batches.c.batch)
    return list(connection.scalars(query))


def cancel(connection: sa.Connection, batch: str, by: str, now: datetime, *, with_fallbacks: bool = False) -> Cancelled:
    """Cancels a batch for ever: what isn't begun is never sent. What was begun keeps its course.

    ``with_fallbacks``: none of its App messages falls back any more; also for a batch that is cancelled already.
    Then its queued fallbacks end here, and others when they are due. Cancelling again changes nothing else.
    """
    known = batches_.get(connection, batch, lock=True)
    new = known.cancelled_at is None
    more = with_fallbacks and known.fallbacks_cancelled_at is None
    at, name = known.cancelled_at or now, known.cancelled_by or by
    if not (new or more):
        return Cancelled(at, name, known.fallbacks_cancelled_at is not None, new=False)
    connection.execute(
        sa.update(batches)
        .where(batches.c.batch == batch)
        .values(
            cancelled_at=at,
            cancelled_by=name,
            fallbacks_cancelled_at=now if more else known.fallbacks_cancelled_at,
        )
    )
    batches_.mark_changed(connection, batch)
    reminds = known.questionnaire is not None and reminders.are_to_come(connection, batch)
    messages, fallbacks = end_unsent_if_cancelled(connection, batch, now)
    detail = {"with_fallbacks": with_fallbacks, "messages": messages, "fallbacks": fallbacks}
    audit.record(connection, now, by, "cancel", batch, detail)
    return Cancelled(
        at, name, with_fallbacks, new=True, messages=messages, fallbacks=fallbacks, reminders=reminds and new
    )


def end_unsent_if_cancelled(connection: sa.Connection, batch: str, now: datetime) -> tuple[int, int]:
    """Ends what isn't begun of a cancelled batch: messages, and fallbacks if they were cancelled too; gives how many.

    With the messages its reminders end: nobody is asked again for what was called off.

    Also what is unsent again, after a chunk was given back or a person found that it wasn't sent.
    """
    known = batches_.get(connection, batch, lock=True)
    messages = 0
    if known.cancelled_at is not None:
        messages = _cancel_messages(connection, batch, now)
        if known.questionnaire is not None:  # it goes through all of the batch
            reminders.end(connection, batch)
    fallbacks = _end_queued_fallbacks(connection, batch, now) if known.fallbacks_cancelled_at is not None else 0
    return messages, fallbacks


def _cancel_messages(connection: sa.Connection, batch: str, now: datetime) -> int:
    unsent = sa.and_(attempts.c.batch == batch, attempts.c.step == "primary", sa.text(UNSENT))
    return connection.execute(sa.update(attempts).where(unsent).values(cancelled_at=now)).rowcount


def _end_queued_fallbacks(connection: sa.Connection, batch: str, now: datetime) -> int:
    """As if each had been cancelled when it became due: the App message says why nothing followed."""
    queued = sa.and_(attempts.c.batch == batch, attempts.c.step == "fallback", sa.text(UNSENT))
    patients = list(connection.scalars(sa.select(attempts.c.patient).where(queued)))
    if not patients:
        return 0
    connection.execute(sa.delete(attempts).where(queued))
    app_message = sa.and_(
        attempts.c.batch == batch, attempts.c.step == "primary", attempts.c.patient == sa.bindparam("whose")
    )
    connection.execute(
        sa.update(attempts)
        .where(app_message)
        .values(fallback_at=None, no_fallback_at=now, no_fallback_because="cancelled"),
        [{"whose": patient} for patient in patients],
    )
    return len(patients)
