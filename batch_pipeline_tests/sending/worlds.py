"""A ledger with a batch to send, a simulator, and clocks that a test moves: enough to let a process die anywhere."""

import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from typing_extensions import override

from batch_pipeline.errors import Refused
from batch_pipeline.ledger.engine import Ledger
from batch_pipeline.providers.protocol import Answer, Channel, OutgoingMessage, Provider, Recovery
from batch_pipeline.providers.simulator import Shares, Simulator
from batch_pipeline.sending import dispatcher
from batch_pipeline.sending.dispatcher import Dispatched
from batch_pipeline_tests.ledger.given import BATCH, NOW, Recipient, attempt_rows, lines, open_ledger, queue

TIMEOUT = timedelta(seconds=0.5)


class Died(BaseException):
    """The process is gone: nothing that it had not committed exists, and none of its code runs on."""


@dataclass
class Clock:
    """The machine's clock and the steady one. Sleeping takes no time."""

    wall: datetime = datetime(2026, 10, 1, 9, tzinfo=UTC)
    steady: float = 1_000.0
    slept: list[float] = field(default_factory=list)

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.wall += timedelta(seconds=seconds)
        self.steady += seconds


Happens = Callable[[str], None]
"""Told of each moment of a dispatch by name; may raise ``Died``, sleep, or let others work."""


class WatchedLedger(Ledger):
    """Tells before and after each commit."""

    happens: Happens

    @classmethod
    def of(cls, ledger: Ledger, happens: Happens) -> "WatchedLedger":
        """The same ledger, on the same engine: compiling every statement anew is what would take the time."""
        watched = cls(ledger._engine)
        watched.happens = happens
        return watched

    @override
    @contextmanager
    def write(self) -> Generator[sa.Connection]:
        with super().write() as connection:
            yield connection
            self.happens("before commit")
        self.happens("after commit")


class WatchedSimulator(Simulator):
    """Tells before and after each call."""

    happens: Happens = staticmethod(lambda _: None)
    posts: list[str]

    @override
    def send(self, chunk_reference: str, messages: Sequence[OutgoingMessage], now: datetime) -> Answer:
        self.happens("before post")
        self.posts = [*getattr(self, "posts", []), chunk_reference]
        answer = super().send(chunk_reference, messages, now)
        self.happens("after post")
        return answer


@dataclass
class World:
    """One batch, and any number of processes that work at it."""

    folder: Path
    recovery: Recovery = Recovery.DEDUPLICATES
    chunk: int = 3
    shares: Shares | None = None
    clock: Clock = field(default_factory=Clock)
    recipients: Sequence[Recipient] = ()
    timeout: timedelta = TIMEOUT

    def __post_init__(self) -> None:
        self.ledger = open_ledger(self.folder)
        queue(self.ledger, self.recipients or lines(10))

    def simulator(self, happens: Happens | None = None, **changes: Any) -> WatchedSimulator:
        standard = {
            "chunk": self.chunk,
            "timeout": self.timeout,
            "recovery": self.recovery,
            "shares": self.shares,
        }
        made = WatchedSimulator(self.folder / "simulator.sqlite", **(standard | changes))
        if happens is not None:
            made.happens = happens
        return made

    def process(self, happens: Happens = lambda _: None, **more: Any) -> Dispatched:
        """One dispatch, as if by a process of its own."""
        return self.dispatch(WatchedLedger.of(self.ledger, happens), self.simulator(happens), **more)

    def dying_process(self, happens: Happens) -> None:
        """A dispatch that dies on its way, if there is enough to do for it to come that far."""
        with suppress(Died):
            self.process(happens)

    def dispatch(self, ledger: Ledger, provider: Provider, **more: Any) -> Dispatched:
        return dispatcher.dispatch(
            ledger,
            BATCH,
            providers(provider),
            **{
                "now": NOW,
                "owner": "a test",
                "wall": lambda: self.clock.wall,
                "steady": lambda: self.clock.steady,
                "sleep": self.clock.sleep,
            }
            | more,
        )

    def journal(self) -> Counter[str]:
        """How often each message was accepted."""
        return Counter(entry.reference for entry in self.simulator().journal())

    def states(self) -> list[tuple[Any, ...]]:
        return attempt_rows(self.ledger, "line", "accepted_at", "failed_at", "unconfirmed_at")

    def references(self) -> list[str]:
        return [row[0] for row in attempt_rows(self.ledger, "reference")]


def providers(provider: Provider) -> Mapping[Channel, Provider]:
    return {"email": provider, "nhs_app": provider, "sms": provider}


# For processes of their own --------------------------------------------------------------------------------------


def dispatch_for_real(folder: Path, timeout: float, chunk: int, shares: Shares | None, progress: Any) -> None:
    """Sends the batch by the real clocks; counts in ``progress`` how often it told of any."""

    def tell(_done: int, _total: int) -> None:
        progress.value += 1

    simulator = Simulator(folder / "simulator.sqlite", timeout=timedelta(seconds=timeout), chunk=chunk, shares=shares)
    dispatcher.dispatch(
        open_ledger(folder), BATCH, providers(simulator), now=NOW, owner=f"process {os.getpid()}", on_progress=tell
    )


class SlowSimulator(Simulator):
    """Takes its time over each call, as a provider over a network does."""

    seconds: float = 0

    @override
    def send(self, chunk_reference: str, messages: Sequence[OutgoingMessage], now: datetime) -> Answer:
        time.sleep(self.seconds)
        return super().send(chunk_reference, messages, now)


SERVER_GONE = 3
"""Exit code of a dispatch that was refused because the ledger's server went away."""


def dispatch_slowly(folder: Path, chunk: int, seconds: float, timeout: float, recovery: Recovery, begun: Any) -> None:
    """Sends the batch by the real clocks, to a provider that takes ``seconds`` a call; sets ``begun`` after the first answer."""
    limits = {"timeout": timedelta(seconds=timeout), "chunk": chunk, "recovery": recovery}
    simulator = SlowSimulator(folder / "simulator.sqlite", **limits)
    simulator.seconds = seconds

    def tell(done: int, _total: int) -> None:
        begun.value = begun.value or done > 0

    try:
        dispatcher.dispatch(
            open_ledger(folder), BATCH, providers(simulator), now=NOW, owner=f"process {os.getpid()}", on_progress=tell
        )
    except Refused:
        sys.exit(SERVER_GONE)


def dispatch_and_stop_after_the_first_claim(folder: Path, timeout: float, chunk: int) -> None:
    """Sends the batch, but stops (SIGSTOP) between the first claim's commit and its post; notes what it posts."""
    stopped = folder / "stopped"

    def happens(moment: str) -> None:
        if moment == "after commit" and not stopped.exists():
            stopped.write_text(str(os.getpid()))
            os.kill(os.getpid(), signal.SIGSTOP)

    simulator = WatchedSimulator(folder / "simulator.sqlite", timeout=timedelta(seconds=timeout), chunk=chunk)
    ledger = WatchedLedger.of(open_ledger(folder), happens)
    dispatcher.dispatch(ledger, BATCH, providers(simulator), now=NOW, owner="the sleeper")
    (folder / "posts-of-the-sleeper").write_text("\n".join(getattr(simulator, "posts", [])))
