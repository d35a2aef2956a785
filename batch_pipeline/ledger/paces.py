"""The rate of a provider's account, shared by every process that posts to it: who wants to post books a time.

A booking moves the account's next free moment on by as long as the requests take at the account's rate. So all who
post keep to the rate together, in whatever order they come, and a process that dies has used up no more than it booked.
"""

from datetime import datetime, timedelta

import sqlalchemy as sa

from batch_pipeline.ledger.dialects import insert
from batch_pipeline.ledger.tables import paces

FURTHEST = timedelta(hours=1)
"""A free moment further ahead comes of a clock that was put back: the account is taken to be free."""


def account_of(service: str, account: str) -> str:
    """What the account that somebody has with a service goes by here: each service keeps to a rate of its own."""
    return f"{service}:{account}"


def book(connection: sa.Connection, account: str, requests: int, per_minute: int, wall: datetime) -> timedelta:
    """Books ``requests`` of an account that may make ``per_minute``; gives how long to wait before the first.

    ``wall`` is the machine's clock. The requests of one booking may follow one another as fast as they can: over a
    minute the rate is kept, but for one booking's requests.
    """
    connection.execute(insert(connection, paces).on_conflict_do_nothing(), {"account": account, "free_at": wall})
    query = sa.select(paces.c.free_at).where(paces.c.account == account).with_for_update()
    free_at = connection.execute(query).scalar_one()
    start = free_at if wall < free_at <= wall + FURTHEST else wall
    after = start + requests * timedelta(minutes=1) / per_minute
    connection.execute(sa.update(paces).where(paces.c.account == account).values(free_at=after))
    return start - wall


def hold_back(connection: sa.Connection, account: str, until: datetime) -> None:
    """Lets an account that has been booked before make no request until then: its provider wants to be left alone."""
    later = sa.and_(paces.c.account == account, paces.c.free_at < until)
    connection.execute(sa.update(paces).where(later).values(free_at=until))
