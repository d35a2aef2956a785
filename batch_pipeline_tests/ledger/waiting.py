"""Two transactions at the same messages on PostgreSQL: that neither waits for the other for ever."""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import sqlalchemy as sa

from batch_pipeline.ledger.engine import Ledger
from batch_pipeline.ledger.tables import attempts
from batch_pipeline_tests.ledger.given import NOW


def is_kept_waiting(ledger: Ledger) -> bool:
    """Whether any transaction waits for another's lock."""
    with ledger.read() as connection:
        return bool(connection.scalar(sa.text("SELECT count(*) FROM pg_locks WHERE NOT granted")))


def wait_until_kept_waiting(ledger: Ledger) -> None:
    """Returns when one does."""
    give_up = time.monotonic() + 30
    while not is_kept_waiting(ledger):
        assert time.monotonic() < give_up, "it waits for nobody"
        time.sleep(0.01)


def assert_nobody_waits_for_ever(ledger: Ledger, change: Callable[[], object], first: int, second: int) -> None:
    """Lets ``change`` run into one who has the message of the first line, and then takes that of the second.

    Whoever changes both in the order of their ids waits for the first, and has nothing that the other waits for.
    """
    one, other = (
        sa.update(attempts).where(attempts.c.line == line).values(delivered_at=NOW) for line in (first, second)
    )
    with ThreadPoolExecutor() as pool:
        with ledger.write() as connection:
            connection.execute(one)
            changed = pool.submit(change)
            wait_until_kept_waiting(ledger)
            connection.execute(other)
        changed.result()
