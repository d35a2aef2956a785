"""Whether the ledger answers, at this software's version."""

import asyncio

from batch_pipeline.ledger import migrations
from batch_pipeline.ledger.engine import Ledger

_SECONDS = 5


class Readiness:
    """Asks the ledger on behalf of any number of callers at once, with one question at a time."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._asking: asyncio.Task[bool] | None = None

    async def ask(self) -> bool:
        """False when it doesn't answer within five seconds, or fails, or isn't at this software's version."""
        if self._asking is None or self._asking.done():
            self._asking = asyncio.create_task(asyncio.to_thread(self._is_ready))
        done, _ = await asyncio.wait([self._asking], timeout=_SECONDS)
        return bool(done) and self._asking.exception() is None and self._asking.result()

    def _is_ready(self) -> bool:
        with self._ledger.read() as connection:
            return migrations.version(connection) == migrations.HEAD
