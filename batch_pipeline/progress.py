"""How far long work has come, told to whoever watches: a bar on a terminal, or nobody."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

Listener = Callable[[str, int, int], None]

_listener: ContextVar[Listener | None] = ContextVar("progress_listener", default=None)


def tell(what: str, done: int, total: int) -> None:
    """Says that ``done`` of ``total`` of something are done."""
    if listener := _listener.get():
        listener(what, done, total)


@contextmanager
def watched(listener: Listener) -> Iterator[None]:
    """Lets ``listener(what, done, total)`` hear of all progress inside."""
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)
