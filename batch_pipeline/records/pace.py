"""How fast a record system is written to: a rate that all processes share, and the pauses it asks for."""

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from batch_pipeline.ledger import paces
from batch_pipeline.ledger.engine import Ledger
from batch_pipeline.records.writer import WriterStopped

LONGEST_WAIT = timedelta(minutes=1)
"""A longer one isn't waited for: a later run goes on where this one stops."""


class Pace:
    """The turns to write to one system.

    Args:
        ledger: where the turns of all processes are booked.
        account: whose turns.
        per_minute: how many there are.
        wall: the machine's clock.
        sleep: waits that many seconds.
    """

    def __init__(
        self,
        ledger: Ledger,
        account: str,
        per_minute: int,
        *,
        wall: Callable[[], datetime] = lambda: datetime.now(UTC),
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._ledger = ledger
        self._account = account
        self._per_minute = per_minute
        self._wall = wall
        self.sleep = sleep
        """Also for pauses between two tries."""

    def wait(self) -> None:
        """Until it is our turn; ``WriterStopped`` where that is too far off."""
        with self._ledger.write() as connection:
            wait = paces.book(connection, self._account, 1, self._per_minute, self._wall())
        if wait > LONGEST_WAIT:
            raise WriterStopped(f"the record system wants to be left alone for {wait.total_seconds():.0f} seconds")
        self.sleep(wait.total_seconds())

    def hold_back(self, pause: timedelta) -> None:
        """Nobody's turn comes before that pause is over."""
        if pause > timedelta(0):
            with self._ledger.write() as connection:
                paces.hold_back(connection, self._account, self._wall() + pause)
