"""HTTP calls that end in time, whatever the other side does, and that tell whether anything was sent.

httpx's time-outs are of single operations: a server that sends a byte now and then holds a call for ever, and most
of all in the headers, where nothing comes back to look at a clock. So the calls run in an event loop, in a thread of
its own, where a deadline cancels them wherever they are: in the name service, a TLS handshake, a write or a read.
"""

import asyncio
import logging
import os
import ssl
import threading
import time
from collections.abc import Callable, Coroutine, Mapping
from concurrent.futures import CancelledError
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import httpx


def _names_no_address(record: logging.LogRecord) -> bool:
    return record.levelno >= logging.WARNING


# Of each request it tells the address at the level of information: PDS's ends in a patient's NHS number.
logging.getLogger("httpx").addFilter(_names_no_address)

LONGEST_ANSWER = 64 * 1024 * 1024
"""Bytes. An answer to 45,000 messages has some 5 MB."""


@dataclass(frozen=True, slots=True)
class Reply:
    """A whole answer. The body may be personal."""

    status: int
    headers: httpx.Headers
    body: bytes = field(repr=False)


class NotSent(Exception):
    """Nothing of the request was written: it was surely not carried out. Names the cause, and no contents."""


class NoAnswer(Exception):
    """The request was written, at least in part, and no whole answer came back. Names the cause, and no contents."""


class Deadline:
    """A moment by a clock that nobody sets, shared by all that one piece of work has to wait for."""

    def __init__(self, seconds: float, steady: Callable[[], float] = time.monotonic) -> None:
        self._steady = steady
        self._ends = steady() + seconds

    def left(self) -> float:
        """Seconds, 0 when it is over."""
        return max(0.0, self._ends - self._steady())


@cache
def _tls() -> ssl.SSLContext:
    """One for the process: reading all the authorities' certificates takes long."""
    return httpx.create_ssl_context()


class BoundedHttp:
    """A client for any number of threads, which keeps its connections. Follows no redirects, repeats nothing."""

    def __init__(self) -> None:
        self._tls = _tls()
        self._lock = threading.Lock()
        self._owner: int | None = None
        self._loop: asyncio.AbstractEventLoop
        self._client: httpx.AsyncClient

    def call(
        self, method: str, url: str, *, headers: Mapping[str, str], content: bytes | None = None, deadline: Deadline
    ) -> Reply:
        """One request and its whole answer.

        Raises:
            NotSent: as it says.
            NoAnswer: as it says.
        """
        with self._lock:
            self._start()
            request = self._client.build_request(method, url, headers=headers, content=content)
            future = asyncio.run_coroutine_threadsafe(_call(self._client, request, deadline), self._loop)
        try:
            return future.result()
        except CancelledError:
            raise NoAnswer("the connections were closed meanwhile") from None
        finally:
            future.cancel()  # it runs on only when this thread was interrupted

    def close(self) -> None:
        """Gives up the connections and the thread; whoever waits for an answer gets none. A later call opens new ones."""
        with self._lock:
            if self._owner == os.getpid():
                asyncio.run_coroutine_threadsafe(_end(self._client), self._loop).result()
                self._loop.call_soon_threadsafe(self._loop.stop)
            self._owner = None

    def _start(self) -> None:
        """A loop and a client of this process: neither outlives a fork."""
        if self._owner == os.getpid():
            return
        self._client = httpx.AsyncClient(verify=self._tls, timeout=None)  # noqa: S113 - the deadline is over all of the call
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=_run, args=[self._loop], name="bounded-http", daemon=True).start()
        self._owner = os.getpid()


def _run(loop: asyncio.AbstractEventLoop) -> None:
    loop.run_forever()
    loop.close()


async def _end(client: httpx.AsyncClient) -> None:
    calls = asyncio.all_tasks() - {asyncio.current_task()}
    for call in calls:
        call.cancel()
    await asyncio.gather(*calls, return_exceptions=True)
    await client.aclose()


async def _call(client: httpx.AsyncClient, request: httpx.Request, deadline: Deadline) -> Reply:
    written, request.extensions["trace"] = _watch()
    try:
        async with asyncio.timeout(deadline.left()):
            response = await client.send(request, stream=True)
            try:
                return Reply(response.status_code, response.headers, await _read(response))
            finally:
                await response.aclose()
    except TimeoutError:
        reason = "the time is over"
    except (httpx.HTTPError, OSError) as error:
        reason = type(error).__name__
    raise (NoAnswer if written.is_set() else NotSent)(reason) from None


def _watch() -> tuple[asyncio.Event, Callable[[str, dict[str, Any]], Coroutine[Any, Any, None]]]:
    """What the transport calls at each step, and what it sets before the first byte of the request is written."""
    written = asyncio.Event()

    async def trace(step: str, about: dict[str, Any]) -> None:
        # A CONNECT asks a proxy for a tunnel: the request itself comes after it.
        if step.endswith(".send_request_headers.started") and about["request"].method != b"CONNECT":
            written.set()

    return written, trace


async def _read(response: httpx.Response) -> bytes:
    body = bytearray()
    async for part in response.aiter_bytes():
        body += part
        if len(body) > LONGEST_ANSWER:
            raise httpx.ReadError("the answer is too long")
    return bytes(body)
