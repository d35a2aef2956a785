"""Group commit: the callbacks that came while one transaction was written go into the next, together.

A commit waits for the disk. Were each callback to wait for a commit of its own, the disk would set the pace; this way
a commit takes along whatever has gathered, and each callback is answered after the commit that holds it.
"""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from typing import Self

from sqlalchemy.exc import OperationalError

from batch_pipeline.ledger import unread as unread_news
from batch_pipeline.ledger.engine import Ledger
from batch_pipeline.providers.protocol import Receipt
from batch_pipeline.sending import receipts


class Full(Exception):
    """So many receipts wait to be stored that no more are taken now."""


class NotStored(Exception):
    """The ledger didn't take them, or not in time. Names the cause by its type: a message might quote a value."""


@dataclass(frozen=True, slots=True, eq=False)
class _Callback:
    provider: str
    receipts: Sequence[Receipt]
    unread: Sequence[str]
    stored: asyncio.Future[None]


class Storing:
    """Stores callbacks' receipts, on one thread, from ``async with`` to its end: that waits for all that was taken."""

    def __init__(self, ledger: Ledger, clock: Callable[[], datetime], *, most_waiting: int, seconds: float) -> None:
        self._ledger = ledger
        self._clock = clock
        self._most_waiting = most_waiting
        self._seconds = seconds
        self._waiting: list[_Callback] = []
        self._receipts_waiting = 0
        self._news = asyncio.Event()
        self._closing = False

    async def __aenter__(self) -> Self:
        self._thread = ThreadPoolExecutor(1, "storing")
        self._task = asyncio.create_task(self._run())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._closing = True
        self._news.set()
        await self._task
        self._thread.shutdown()

    async def store(self, provider: str, batch: Sequence[Receipt], unread: Sequence[str] = ()) -> None:
        """Returns when the receipts, and what couldn't be read, are committed, those stored before included.

        ``Full``: nothing was taken. ``NotStored``: the ledger failed and nothing was stored; or it took too long, and
        they are stored when it is free. Whoever stops waiting (a client that is gone) changes nothing: what was taken
        is stored.
        """
        parts = len(batch) + len(unread)
        if self._closing or (self._waiting and self._receipts_waiting + parts > self._most_waiting):
            raise Full
        stored = asyncio.get_running_loop().create_future()
        self._waiting.append(_Callback(provider, batch, unread, stored))
        self._receipts_waiting += parts
        self._news.set()
        try:
            await asyncio.wait_for(stored, self._seconds)
        except TimeoutError:
            raise NotStored("TimeoutError") from None

    async def _run(self) -> None:
        while not self._closing or self._waiting:
            await self._news.wait()
            self._news.clear()
            together, self._waiting, self._receipts_waiting = self._waiting, [], 0
            if together:
                await self._store(together)

    async def _store(self, together: list[_Callback]) -> None:
        failed = await asyncio.get_running_loop().run_in_executor(self._thread, self._commit, together)
        for callback in together:
            if callback.stored.done():  # nobody waits for it any more
                continue
            if callback in failed:
                callback.stored.set_exception(NotStored(failed[callback]))
            else:
                callback.stored.set_result(None)

    def _commit(self, together: list[_Callback]) -> dict[_Callback, str]:
        """Stores all in one transaction; gives those that weren't stored, with the type of what was raised."""
        told = [(callback.provider, receipt) for callback in together for receipt in callback.receipts]
        odd = sorted((callback.provider, item) for callback in together for item in callback.unread)
        # In the order of their keys: of two processes that store the same ones, one waits for the other, and never both.
        told.sort(key=lambda one: (one[0], one[1].provider_key))
        try:
            if odd:
                unread_news.keep(self._ledger, odd, self._clock())
            receipts.store_all(self._ledger, told, self._clock())
        except OperationalError as error:  # the ledger's fault, not a callback's: locked, full, gone
            return dict.fromkeys(together, type(error.orig).__name__)
        except Exception as error:  # noqa: BLE001 - whatever it is, each one that waits has to be told
            if len(together) == 1:
                return {together[0]: type(error).__name__}
            return self._commit_one_by_one(together)
        return {}

    def _commit_one_by_one(self, together: list[_Callback]) -> dict[_Callback, str]:
        """So that one callback that can't be stored doesn't keep the others from it."""
        failed: dict[_Callback, str] = {}
        for callback in together:
            failed |= self._commit([callback])
        return failed
