"""News that this version can't read: kept as it came, so that nothing a provider said is lost (SPEC 2.8).

It may hold anything, a patient's details too: it stays in here, and only its number is shown.
"""

import hashlib
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import NamedTuple

import sqlalchemy as sa

from batch_pipeline.ledger.dialects import insert_unknown, one_of_texts
from batch_pipeline.ledger.engine import Ledger
from batch_pipeline.ledger.tables import to_microseconds, unread_news

_COLUMNS = ("provider", "sha256", "received_at", "item")


class Unread(NamedTuple):
    """One item."""

    sha256: str
    item: str


def keep(ledger: Ledger, told: Iterable[tuple[str, str]], now: datetime) -> None:
    """Keeps items, each with its provider's name; one that comes again is kept once."""
    at = to_microseconds(now)
    rows = [(provider, hashlib.sha256(item.encode()).hexdigest(), at, item) for provider, item in told]
    with ledger.write() as connection:
        insert_unknown(connection, unread_news, _COLUMNS, rows)


def kept(connection: sa.Connection, provider: str, *, after: str = "", limit: int = 1_000) -> list[Unread]:
    """A provider's items, some at once, in the order of their digests."""
    query = (
        sa.select(unread_news.c.sha256, unread_news.c.item)
        .where(unread_news.c.provider == provider, unread_news.c.sha256 > after)
        .order_by(unread_news.c.sha256)
        .limit(limit)
    )
    return [Unread(*row) for row in connection.execute(query)]


def forget(connection: sa.Connection, provider: str, digests: Sequence[str]) -> None:
    """Drops items that were read after all."""
    these = one_of_texts(connection, unread_news.c.sha256, digests)
    connection.execute(sa.delete(unread_news).where(unread_news.c.provider == provider, these))


def count(connection: sa.Connection) -> int:
    """How many items there are, of all providers."""
    return connection.scalar(sa.select(sa.func.count()).select_from(unread_news)) or 0
