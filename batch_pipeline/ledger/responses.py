"""What patients answer (SPEC 2.12), and what of it can't wait: ``alerts``.

A post is folded over the answers as they are at that moment, in one transaction that has the patient's link to itself:
of two tabs neither takes away what the other gave. Whatever can't wait is put into ``alerts`` by the same transaction,
so no reading is kept of which the practice isn't told in the end.
"""

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Literal, NamedTuple, TypeVar

import sqlalchemy as sa

from batch_pipeline.ledger import alerts as alerts_
from batch_pipeline.ledger import links
from batch_pipeline.ledger.links import Link, Response
from batch_pipeline.ledger.tables import UNTOLD, alerts, attempts, batches, responses

_ROWS = 2_000


@dataclass(frozen=True, slots=True)
class Change:
    """What a post makes of a patient's answers."""

    answers: str | None = field(repr=False)
    """All of them, as JSON; ``None`` where it changes nothing."""
    completes: bool
    """Whether they are sent with it, and change no more."""
    findings: Collection[str]
    """What can't wait: the practice is told once of each, whatever becomes of the answer later."""


Changed = TypeVar("Changed", bound=Change)
Closed = Literal["gone", "locked"]
"""A link that is over, was revoked, or is locked: nothing is kept by it."""


def keep(
    connection: sa.Connection, token_hash: str, fold: Callable[[Link, Response | None], Changed], now: datetime
) -> Changed | Closed:
    """Keeps what ``fold`` makes of the answers as they are now; gives that.

    Answers that were sent stay as they are; what can't wait is raised all the same.
    """
    link = links.find(connection, token_hash, lock=True)
    if link is None:
        return "gone"
    before = _of(connection, link)  # not what the link was found with: that may be from before another had the lock
    standing = replace(link, response=before).standing(now)
    if standing != "open":
        return standing
    change = fold(link, before)
    line = _line(connection, link)
    if before is None:
        if change.answers is not None:
            _begin(connection, link, line, change.answers, now)
    elif before.completed_at is None and (change.answers is not None or change.completes):
        _renew(connection, link, before, change, now)
    alerts_.raise_(connection, link.batch, link.patient, line, change.findings, now)
    return change


def _of(connection: sa.Connection, link: Link) -> Response | None:
    row = connection.execute(_RESPONSE, _whose(link)).one_or_none()
    return None if row is None else Response(*row)


def _line(connection: sa.Connection, link: Link) -> int:
    return connection.execute(_LINE, _whose(link)).scalar_one()


def _whose(link: Link) -> dict[str, str]:
    return {"of_batch": link.batch, "of_patient": link.patient}


# Made once: to make them at each post takes longer than to run them.
_IS_THEIRS = sa.and_(responses.c.batch == sa.bindparam("of_batch"), responses.c.patient == sa.bindparam("of_patient"))
_RESPONSE = sa.select(*(responses.c[name] for name in Response.__slots__)).where(_IS_THEIRS)
_LINE = sa.select(attempts.c.line).where(
    attempts.c.batch == sa.bindparam("of_batch"),
    attempts.c.patient == sa.bindparam("of_patient"),
    attempts.c.step == "primary",
)
_INSERT = sa.insert(responses)
_UPDATE = (
    sa.update(responses)
    .where(_IS_THEIRS, responses.c.version == sa.bindparam("had_version"))
    .values({name: sa.bindparam(f"new_{name}") for name in ("answers", "changed_at", "completed_at", "version")})
)


def _begin(connection: sa.Connection, link: Link, line: int, answers: str, now: datetime) -> None:
    given = {"batch": link.batch, "patient": link.patient, "line": line, "answers": answers}
    connection.execute(_INSERT, {**given, "first_at": now, "changed_at": now, "version": 1})


def _renew(connection: sa.Connection, link: Link, before: Response, change: Change, now: datetime) -> None:
    new = {
        "new_answers": before.answers if change.answers is None else change.answers,
        "new_changed_at": now,
        "new_completed_at": now if change.completes else None,
        "new_version": before.version + 1,
    }
    renewed = connection.execute(_UPDATE, {**_whose(link), "had_version": before.version, **new})
    if renewed.rowcount != 1:
        raise RuntimeError("the answers were changed by somebody who hadn't locked their link")


# What people read ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Answered:
    """One patient's answers, for the inbox, the reports and the record."""

    line: int
    patient: str
    nhs_number: str | None = field(repr=False)
    answers: str | None = field(repr=False)
    first_at: datetime
    changed_at: datetime
    completed_at: datetime | None
    version: int


def of_batch(connection: sa.Connection, batch: str) -> Iterator[Answered]:
    """What every patient of a batch answered so far, by line."""
    whose = sa.and_(
        attempts.c.batch == responses.c.batch, attempts.c.patient == responses.c.patient, attempts.c.step == "primary"
    )
    query = (
        sa.select(
            responses.c.line,
            responses.c.patient,
            attempts.c.nhs_number,
            *(responses.c[name] for name in ("answers", "first_at", "changed_at", "completed_at", "version")),
        )
        .join(attempts, whose)
        .where(responses.c.batch == batch)
        .order_by(responses.c.line)
    )
    for some in connection.execution_options(yield_per=_ROWS).execute(query).partitions():
        yield from (Answered(*row) for row in some)


class Counted(NamedTuple):
    """How far the patients of a batch are, and of how many readings that can't wait nobody is told yet."""

    batch: str
    completed: int
    in_progress: int
    urgent: int
    """Patients with one that can't wait."""
    untold: int
    """Patients with one of which the practice isn't told yet."""


def counted(connection: sa.Connection, batch: str | None = None) -> list[Counted]:
    """Of one batch, or of every batch of which something was answered."""
    which = sa.true() if batch is None else responses.c.batch == batch
    raised = sa.exists().where(alerts.c.batch == responses.c.batch, alerts.c.patient == responses.c.patient)
    query = (
        sa.select(
            responses.c.batch,
            _count(responses.c.completed_at.is_not(None)),
            _count(responses.c.completed_at.is_(None)),
            _count(raised),
            _count(raised.where(sa.text(f"alerts.{UNTOLD}"))),
        )
        .where(which)
        .group_by(responses.c.batch)
        .order_by(responses.c.batch)
    )
    return [Counted(*row) for row in connection.execute(query)]


def _count(condition: sa.ColumnElement[bool]) -> sa.ColumnElement[int]:
    return sa.func.coalesce(sa.func.sum(sa.case((condition, 1), else_=0)), 0)


def with_news(connection: sa.Connection) -> list[str]:
    """Batches of which something was answered since their inbox was made."""
    version = sa.func.sum(responses.c.version)
    query = (
        sa.select(responses.c.batch)
        .join(batches, batches.c.batch == responses.c.batch)
        .group_by(responses.c.batch, batches.c.inbox_version)
        .having(version != sa.func.coalesce(batches.c.inbox_version, 0))
        .order_by(responses.c.batch)
    )
    return list(connection.scalars(query))


def mark_inbox(connection: sa.Connection, batch: str, version: int, before: int | None) -> None:
    """Notes that a batch's inbox was made of answers whose versions come to this.

    ``before``: what was noted when it was begun. Where it is something else by now, another was made at the same time, or
    somebody has seen it; nobody knows whose file stands, and it is made anew.
    """
    alone = batches.c.inbox_version.is_not_distinct_from(before)
    stands = sa.case((alone, version), else_=None)
    connection.execute(sa.update(batches).where(batches.c.batch == batch).values(inbox_version=stands))


def forget_inbox(connection: sa.Connection, batch: str) -> None:
    """Notes that a batch's inbox has to be made anew."""
    connection.execute(sa.update(batches).where(batches.c.batch == batch).values(inbox_version=None))
