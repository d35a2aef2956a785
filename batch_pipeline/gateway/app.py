"""The ASGI app: its routes, and what is answered to providers when. Patients' pages are in ``pages``.

A provider's call is answered 202 only after the commit that holds what it said, so whatever isn't acknowledged is sent
again, by the provider. A call that comes again (a repeat, or a genuine one that somebody recorded and replays) is
answered 202 as well, as the contract wants it, and stores nothing a second time: the provider's own key of a receipt is
unique in the ledger, and the earliest moment of a kind is the one that counts, whatever comes after it.
"""

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from starlette.applications import Starlette
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from batch_pipeline.gateway import bodies
from batch_pipeline.gateway.callbacks import (
    CallbackReader,
    Malformed,
    NotAllowed,
    NotAuthenticated,
    Reading,
    refuse_unstorable,
)
from batch_pipeline.gateway.logs import TOLD, Told, log_answer, make_log, where
from batch_pipeline.gateway.openapi import document
from batch_pipeline.gateway.pages.routes import Pages
from batch_pipeline.gateway.pages.visits import PagesOf
from batch_pipeline.gateway.readiness import Readiness
from batch_pipeline.gateway.storing import Full, NotStored, Storing
from batch_pipeline.ledger.engine import Ledger

Readers = Mapping[tuple[str, str], CallbackReader]
"""By workspace and provider, both as they stand in the path."""


@dataclass(frozen=True, slots=True)
class GatewayLimits:
    """What the gateway takes from a caller, and how long it makes one wait."""

    body_bytes: int = 1_000_000
    body_seconds: float = 10
    receipts_waiting: int = 20_000
    """For a commit, of all callers together; more are answered 429."""
    storing_seconds: float = 10
    """A caller waits no longer for the commit, and is answered 503: the ledger may be busy for minutes."""


def make_app(
    ledger: Ledger,
    readers: Readers,
    clock: Callable[[], datetime],
    limits: GatewayLimits | None = None,
    log: Any = None,
    new_id: Callable[[], str] = lambda: uuid.uuid4().hex,
    pages: PagesOf | None = None,
) -> ASGIApp:
    """The gateway over a ledger. ``clock`` says when a receipt was received; ``log`` is of ``make_log``.

    ``pages``: what the patients' pages need of a home; without it there are none.
    """
    limits = limits or GatewayLimits()
    log = log or make_log()
    storing = Storing(ledger, clock, most_waiting=limits.receipts_waiting, seconds=limits.storing_seconds)
    ready = Readiness(ledger)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        async with storing:
            yield

    async def readyz(_: Request) -> Response:
        if await ready.ask():
            return JSONResponse({"status": "ready"})
        return JSONResponse({"error": "the ledger can't be used"}, 503, {"Retry-After": "5"})

    app = Starlette(
        routes=[
            Route("/callbacks/{workspace}/{provider}", _Callbacks(readers, storing, limits)),
            Route("/healthz", _healthz),
            Route("/readyz", readyz),
            Route("/openapi.json", _openapi),
            *(Pages(ledger, pages, clock).routes() if pages is not None else ()),
        ],
        exception_handlers={HTTPException: _refuse, Exception: _fail},
        lifespan=lifespan,
    )
    app.router.redirect_slashes = False
    return _Logged(app, log, new_id)


async def _healthz(_: Request) -> Response:
    return JSONResponse({"status": "alive"})


async def _openapi(_: Request) -> Response:
    return JSONResponse(document())


async def _refuse(_: Request, error: Exception) -> Response:
    """Every refusal in one shape. Those of an unknown path, workspace and provider are the same to the byte."""
    if not isinstance(error, HTTPException):
        raise error
    return JSONResponse({"error": error.detail}, error.status_code, error.headers)


async def _fail(_: Request, __: Exception) -> Response:
    return JSONResponse({"error": "a fault of the gateway's"}, 500)


def _named(provider: str) -> str:
    """A provider's name in settings, ledger and reports, of that in a path."""
    return provider.replace("-", "_")


class _Callbacks:
    """``POST /callbacks/{workspace}/{provider}``."""

    def __init__(self, readers: Readers, storing: Storing, limits: GatewayLimits) -> None:
        self._readers = readers
        self._storing = storing
        self._limits = limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        told: Told = scope[TOLD]
        told.event = "callback"
        workspace, provider = request.path_params["workspace"], request.path_params["provider"]
        reader = self._readers.get((workspace, provider))
        if reader is None:
            raise HTTPException(404)
        told.workspace, told.provider = workspace, provider
        if request.method != "POST":
            raise HTTPException(405, headers={"Allow": "POST"})
        answer = await self._take(request, reader, told)
        await answer(scope, receive, send)

    async def _take(self, request: Request, reader: CallbackReader, told: Told) -> Response:
        most, seconds = self._limits.body_bytes, self._limits.body_seconds
        bodies.refuse_encoded(request)
        try:
            reader.admit(request.headers)
        except (NotAuthenticated, NotAllowed) as refusal:
            await bodies.drain(request, most, seconds)
            raise _as_answer(refusal, reader) from None
        body = await bodies.read(request, most, seconds)
        try:
            reading = reader.read(request.headers, body)
            refuse_unstorable(reading.receipts)
        except (NotAuthenticated, NotAllowed, Malformed) as refusal:
            raise _as_answer(refusal, reader) from None
        if reading.receipts or reading.unread:
            await self._store(told, reading)
        told.receipts, told.unread = len(reading.receipts), len(reading.unread) or None
        return Response(f'{{"receipts":{len(reading.receipts)}}}', 202, media_type="application/json")

    async def _store(self, told: Told, reading: Reading) -> None:
        try:
            await self._storing.store(_named(str(told.provider)), reading.receipts, reading.unread)
        except Full:
            raise HTTPException(429, "too much waits to be stored", {"Retry-After": "5"}) from None
        except NotStored as error:
            told.fault = str(error)
            raise HTTPException(503, "the ledger can't be written now", {"Retry-After": "30"}) from None


def _as_answer(refusal: Exception, reader: CallbackReader) -> HTTPException:
    if isinstance(refusal, NotAuthenticated):
        return HTTPException(401, "the credential is missing or wrong", {"WWW-Authenticate": reader.challenge})
    if isinstance(refusal, NotAllowed):
        return HTTPException(403, "the call isn't genuine")
    return HTTPException(400, "the body can't be read")


class _Logged:
    """Around everything: one line a request, its id in the answer, and no exception out to the server's own log."""

    def __init__(self, app: ASGIApp, log: Any, new_id: Callable[[], str]) -> None:
        self._app = app
        self._log = log
        self._new_id = new_id

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, request_id, told = time.perf_counter(), self._new_id(), Told()
        status: int | None = None

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)["X-Request-ID"] = request_id
            await send(message)

        scope[TOLD] = told
        try:
            await self._app(scope, receive, answer)
        except (ClientDisconnect, asyncio.CancelledError) as gone:
            told.fault = type(gone).__name__
            if isinstance(gone, asyncio.CancelledError):
                raise
        except Exception as error:  # noqa: BLE001 - the server would log its message, which may quote a patient
            told.fault = where(error)
        finally:
            if status != 200:  # a watcher asks every few seconds whether all is well
                log_answer(self._log, told, status, (time.perf_counter() - began) * 1000, request_id)
