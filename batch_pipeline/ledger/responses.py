"""What patients answer, and the alerts that it raises (SPEC 2.12).

A post is folded over the answers as they are at that moment, in one transaction that has the patient's link to itself:
of two tabs neither takes away what the other gave. Whatever can't wait is put into ``alerts`` by the same transaction,
so no reading is kept of which the practice isn't told in the end.
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Literal, TypeVar

import sqlalchemy as sa

from batch_pipeline.ledger import links
from batch_pipeline.ledger.dialects import insert
from batch_pipeline.ledger.links import Link, Response
from batch_pipeline.ledger.tables import alerts, attempts, responses


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
    """Keeps what ``fold`` makes of the answers as they are now; gives that. Answers that were sent stay as they are."""
    link = links.find(connection, token_hash, lock=True)
    if link is None:
        return "gone"
    before = _of(connection, link)  # not what the link was found with: that may be from before another had the lock
    standing = replace(link, response=before).standing(now)
    if standing != "open":
        return standing
    change = fold(link, before)
    if before is not None and before.completed_at is not None:
        return change
    line = _line(connection, link)
    if before is None:
        if change.answers is not None:
            _begin(connection, link, line, change.answers, now)
    elif change.answers is not None or change.completes:
        _renew(connection, link, before, change, now)
    _raise(connection, link, line, change.findings, now)
    return change


def _of(connection: sa.Connection, link: Link) -> Response | None:
    columns = (responses.c[name] for name in Response.__slots__)
    row = connection.execute(sa.select(*columns).where(_is_of(link))).one_or_none()
    return None if row is None else Response(*row)


def _is_of(link: Link) -> sa.ColumnElement[bool]:
    return sa.and_(responses.c.batch == link.batch, responses.c.patient == link.patient)


def _line(connection: sa.Connection, link: Link) -> int:
    mine = sa.and_(attempts.c.batch == link.batch, attempts.c.patient == link.patient, attempts.c.step == "primary")
    return connection.execute(sa.select(attempts.c.line).where(mine)).scalar_one()


def _begin(connection: sa.Connection, link: Link, line: int, answers: str, now: datetime) -> None:
    connection.execute(
        sa.insert(responses).values(
            batch=link.batch,
            patient=link.patient,
            line=line,
            answers=answers,
            first_at=now,
            changed_at=now,
            version=1,
        )
    )


def _renew(connection: sa.Connection, link: Link, before: Response, change: Change, now: datetime) -> None:
    renewed = connection.execute(
        sa.update(responses)
        .where(_is_of(link), responses.c.version == before.version)
        .values(
            answers=before.answers if change.answers is None else change.answers,
            changed_at=now,
            completed_at=now if change.completes else None,
            version=before.version + 1,
        )
    )
    if renewed.rowcount != 1:
        raise RuntimeError("the answers were changed by somebody who hadn't locked their link")


def _raise(connection: sa.Connection, link: Link, line: int, findings: Collection[str], now: datetime) -> None:
    if findings:
        mine = {"batch": link.batch, "patient": link.patient, "line": line, "raised_at": now}
        connection.execute(
            insert(connection, alerts).on_conflict_do_nothing(),
            [mine | {"finding": finding} for finding in sorted(findings)],
        )
