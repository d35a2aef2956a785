"""What the pages ask of the ledger, on threads of their own.

Those that write have others than those that read: while an outbox is written nobody else can write, and a patient who
gave the date of birth before can have the file all the same. On SQLite those that want to write at the same time do so in
one transaction: each by itself, they would wait for each other by trying again and again.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import date, datetime
from typing import TypeVar

import sqlalchemy as sa
from sqlalchemy.exc import OperationalError

from batch_pipeline.clocks import seconds_since_boot
from batch_pipeline.errors import Refused
from batch_pipeline.ledger import controls, links, responses
from batch_pipeline.ledger.engine import Ledger
from batch_pipeline.ledger.links import Link, Response, Tried
from batch_pipeline.ledger.responses import Changed, Closed
from batch_pipeline.ledger.together import WritesTogether
from batch_pipeline.rules import links as rules
from batch_pipeline.rules.links import LinkKeys

_READERS, _WRITERS = 4, 8
Found = TypeVar("Found")


class Busy(Exception):
    """The ledger can't be asked now, or took too long. Names the cause, or its type."""


class Opening:
    """Asks about links."""

    def __init__(self, ledger: Ledger, keys: LinkKeys, hashed: Callable[[str], str], *, seconds: float) -> None:
        self._ledger = ledger
        self._keys = keys
        self._hashed = hashed
        self._seconds = seconds
        self._readers = ThreadPoolExecutor(_READERS, "links-read")
        self._writers = ThreadPoolExecutor(_WRITERS, "links-write")
        self._writes = WritesTogether(ledger, seconds_since_boot)

    async def find(self, token_hash: str) -> Link | None:
        """The link of a token's hash. ``Busy`` while the ledger may have forgotten that it was revoked."""
        return await self._ask(self._readers, lambda: self._find(token_hash))

    async def read(self, question: Callable[[sa.Connection], Found]) -> Found:
        """What a question about one state of the ledger is answered."""
        return await self._ask(self._readers, lambda: self._read(question))

    async def write(self, question: Callable[[sa.Connection], Found]) -> Found:
        """The same of one that changes something: on disk when this returns. One that took too long may count all the same."""
        return await self._ask(self._writers, lambda: self._write(question))

    async def try_date(self, token_hash: str, born: date, address: str, now: datetime) -> Tried:
        """Tries a date of birth from a network address. One that took too long may count all the same."""
        return await self._ask(self._writers, lambda: self._try(token_hash, born, address, now))

    async def note_download(self, token_hash: str, now: datetime) -> None:
        """Notes that the attachment was fetched."""
        await self._ask(self._writers, lambda: self._note_download(token_hash, now))

    async def keep(
        self, token_hash: str, fold: Callable[[Link, Response | None], Changed], now: datetime
    ) -> Changed | Closed:
        """Keeps what ``fold`` makes of a patient's answers. When this returns they are on disk."""
        return await self._ask(self._writers, lambda: self._keep(token_hash, fold, now))

    async def _ask(self, threads: ThreadPoolExecutor, question: Callable[[], Found]) -> Found:
        asked = asyncio.get_running_loop().run_in_executor(threads, question)
        try:
            return await asyncio.wait_for(asked, self._seconds)
        except (TimeoutError, OperationalError, Refused) as error:
            raise Busy(type(error).__name__) from None

    def _read(self, question: Callable[[sa.Connection], Found]) -> Found:
        with self._ledger.read() as connection:
            return question(connection)

    def _write(self, question: Callable[[sa.Connection], Found]) -> Found:
        return self._writes.write(question)

    def _find(self, token_hash: str) -> Link | None:
        with self._ledger.read() as connection:
            if controls.may_have_forgotten(connection):
                raise Busy("the ledger was restored from a copy")
            return links.find(connection, token_hash)

    def _try(self, token_hash: str, born: date, address: str, now: datetime) -> Tried:
        birth_hash = rules.birth_hash(self._keys, token_hash, born)
        hashed = self._hashed(address)
        return self._writes.write(lambda connection: links.try_date(connection, token_hash, birth_hash, hashed, now))

    def _note_download(self, token_hash: str, now: datetime) -> None:
        self._writes.write(lambda connection: links.note_download(connection, token_hash, now))

    def _keep(
        self, token_hash: str, fold: Callable[[Link, Response | None], Changed], now: datetime
    ) -> Changed | Closed:
        return self._writes.write(lambda connection: responses.keep(connection, token_hash, fold, now))
