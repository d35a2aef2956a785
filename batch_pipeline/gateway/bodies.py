"""Taking a request's body in: up to a size, within a time, and as it was sent."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.exceptions import HTTPException
from starlette.requests import Request

_CLOSE = {"Connection": "close"}
"""The rest of a body that wasn't read can't be told from a next request."""


def refuse_encoded(request: Request) -> None:
    """415 for a compressed body: the signature is over the bytes as sent, and a small one might unpack to any size."""
    if request.headers.get("content-encoding", "identity").strip().lower() not in {"", "identity"}:
        raise HTTPException(415, "a Content-Encoding is not taken", _CLOSE)


async def read(request: Request, most: int, seconds: float) -> bytes:
    """The body. 413 as soon as it is known to exceed ``most`` bytes, 408 when it isn't there within the time."""
    async with _within(seconds):
        parts = [part async for part in _parts(request, most)]
    return parts[0] if len(parts) == 1 else b"".join(parts)


async def drain(request: Request, most: int, seconds: float) -> None:
    """Reads a body and keeps none of it, under the limits of ``read``: a caller that still sends hears no answer."""
    async with _within(seconds):
        async for _ in _parts(request, most):
            pass


@asynccontextmanager
async def _within(seconds: float) -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError:
        raise HTTPException(408, "the body took too long", _CLOSE) from None


async def _parts(request: Request, most: int) -> AsyncIterator[bytes]:
    said = request.headers.get("content-length", "")
    if said.isdecimal() and int(said) > most:
        raise _too_large(most)
    size = 0
    async for part in request.stream():
        size += len(part)
        if size > most:
            raise _too_large(most)
        if part:
            yield part


def _too_large(most: int) -> HTTPException:
    return HTTPException(413, f"the body is larger than {most} bytes", _CLOSE)
