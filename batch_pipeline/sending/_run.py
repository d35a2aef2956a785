"""What the workers of one dispatch share."""

import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import TypeVar

import sqlalchemy as sa

from batch_pipeline.ledger.chunks import Chunk, Message, Told
from batch_pipeline.ledger.engine import Ledger
from batch_pipeline.ledger.together import WritesTogether
from batch_pipeline.providers.protocol import Limits

Written = TypeVar("Written")

LEASE = 10
"""Time-outs that a lease lasts."""
LONGEST_PAUSE = timedelta(minutes=10)
"""That a lease is made longer for. A provider that wants to be left alone for longer ends its channel."""


@dataclass(frozen=True, slots=True)
class Dispatched:
    """What one dispatch did, in messages."""

    accepted: int = 0
    refused: int = 0
    unconfirmed: int = 0
    taken_over: int = 0
    """Of all these, those in chunks that another process had left open."""
    left_open: int = 0
    """In chunks whose provider couldn't be reached: the next dispatch finishes them."""
    unsent: int = 0
    """Not begun, because the batch is paused or cancelled, or a provider stopped."""
    stopped: Mapping[str, str] = field(default_factory=dict[str, str])
    """Channels that ended early, with the reason. Empty: all that could be sent was."""


@dataclass(frozen=True, slots=True)
class Held:
    """A chunk that a worker holds, and until when it may begin to post it."""

    chunk: Chunk
    steady_until: float
    taken_over: bool
    posted: bool = False
    """Whether it may have been posted by whom it was taken from."""
    fresh: Sequence[Message] | None = None
    """Its messages, until something may have become of them since the claim."""


@dataclass(slots=True)
class Run:
    """One dispatch: what it sends, by which clocks, and what its workers have done."""

    ledger: Ledger
    batch: str
    step: str
    now: Callable[[], datetime]
    owner: str
    wall: Callable[[], datetime]
    steady: Callable[[], float]
    sleeps: Callable[[float], None] | None = None
    on_progress: Callable[[int, int], None] | None = None
    after_chunk: Callable[[int], object] | None = None
    before_post: Callable[[Chunk, Sequence[Message] | None], object] | None = None
    before_return: Callable[[Chunk], object] | None = None
    was_posted: Callable[[Chunk], bool] = lambda _: False
    complete: Callable[[Message], Message] = lambda message: message

    done: Dispatched = field(default_factory=Dispatched)
    answered: int = 0
    total: int = 0
    stopped: dict[str, str] = field(default_factory=dict[str, str])
    most: dict[str, int] = field(default_factory=dict[str, int])
    """Messages that a chunk of a channel may have, where the provider's own limit turned out to be too many."""
    accepted: Counter[str] = field(default_factory=Counter[str])
    """Messages, by channel."""
    too_large: Counter[str] = field(default_factory=Counter[str])
    """Of a channel, how many messages in a row were too much for a call of their own."""
    numbers: Counter[str] = field(default_factory=Counter[str])
    """Of a channel, the chunks before and by this run: they are numbered for people."""
    held: set[str] = field(default_factory=set[str])
    """Chunks that a worker of this run has in hand: the others need not watch them."""
    ending: threading.Event = field(default_factory=threading.Event)
    """Set when a worker failed: the others begin nothing more."""
    _tally: threading.Lock = field(default_factory=threading.Lock)
    _writer: WritesTogether = field(init=False)

    def __post_init__(self) -> None:
        self._writer = WritesTogether(self.ledger, self.steady)

    def write(self, work: Callable[[sa.Connection], Written]) -> Written:
        """Does it in a writing transaction, which workers that write at the same time may share: ``WritesTogether``."""
        return self._writer.write(work)

    def sleep(self, pause: timedelta) -> None:
        """Waits; not for long if the run is about to end."""
        if self.sleeps is not None:
            self.sleeps(pause.total_seconds())
        else:
            self.ending.wait(pause.total_seconds())

    def sit_out(self, pause: timedelta) -> None:
        """Waits for all of it, though the run is about to end."""
        (self.sleeps or time.sleep)(pause.total_seconds())

    # Leases ------------------------------------------------------------------------------------------------------

    def lease(self, limits: Limits, pause: timedelta = timedelta(0)) -> tuple[datetime, float]:
        """A lease from now on: its end by the machine's clock, and until when by the steady one a post may begin."""
        ends = self.wall() + pause + LEASE * limits.timeout
        return ends, self.steady() + (pause + (LEASE - 1) * limits.timeout).total_seconds()

    def is_in_time(self, held: Held, limits: Limits) -> bool:
        """Whether the lease lasts for as long as a call may take."""
        return self.wall() + limits.timeout <= held.chunk.lease_until and self.steady() <= held.steady_until

    # Figures -----------------------------------------------------------------------------------------------------

    def count(self, held: Held, told: Told | None) -> None:
        """Counts what became of a chunk, and tells of it; nothing where the lease was lost: another counts."""
        if told is None:
            return
        counted = sum(told)
        with self._tally:
            self.done = replace(
                self.done,
                accepted=self.done.accepted + told.accepted,
                refused=self.done.refused + told.refused,
                unconfirmed=self.done.unconfirmed + told.unconfirmed,
                taken_over=self.done.taken_over + (counted if held.taken_over else 0),
            )
            if told.accepted:
                self.accepted[held.chunk.channel] += told.accepted
                self.too_large[held.chunk.channel] = 0
            self.tell(counted)
            if self.after_chunk is not None:
                self.after_chunk(told.refused)

    def tell(self, messages: int) -> None:
        """Tells of so many more messages that have an answer."""
        self.answered += messages
        if self.on_progress is not None:
            self.on_progress(min(self.answered, self.total), self.total)
