"""Finding work: chunks that others left open, and new ones."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial

import sqlalchemy as sa

from batch_pipeline.ledger import chunks
from batch_pipeline.ledger.chunks import Chunk, Room, Sendable
from batch_pipeline.providers.protocol import Channel, Provider
from batch_pipeline.sending._carrier import Carrier
from batch_pipeline.sending._run import LEASE, LONGEST_PAUSE, Held, Run

_LONGEST_LOOK_AWAY = timedelta(seconds=1)
_LOOK_AGAIN = 1.0
"""Seconds after which the ledger is looked over for what others left."""


@dataclass(slots=True)
class Worker:
    """One of those who send a provider's messages at the same time: one chunk after another, in a thread."""

    run: Run
    provider: Provider
    channels: Sequence[Channel]
    """That go by this provider."""
    unsent: list[Channel] = field(default_factory=list[Channel])
    """Those that had something unsent when the ledger was looked over."""
    look_again: float = 0
    """When to do that again, by the steady clock."""
    seen: dict[str, tuple[Chunk, float]] = field(default_factory=dict[str, tuple[Chunk, float]])
    """Others' chunks as they were when first seen so, and when that was by the steady clock."""

    def work(self) -> None:
        """Sends until nothing is open that it could finish."""
        carrier = Carrier(self.run, self.provider, self._claim_next_in)
        held: Held | None = None
        while held is not None or not self.run.ending.is_set():  # where that is set, the chunk in hand is given back
            held = held or self._find_or_claim()
            if held is not None:
                reference = held.chunk.reference
                self.run.held.add(reference)
                try:
                    held = carrier.carry(held)
                finally:
                    self.run.held.discard(reference)
                continue
            pause = self._until_others_end()
            if pause is None:
                return
            self.run.sleep(pause)

    def _find_or_claim(self) -> Held | None:
        """A chunk to carry: one that others left, or else a new one; ``None`` when there is none to be had now.

        The ledger is looked over once a second: what a claim does by itself needs no look.
        """
        if self.run.steady() < self.look_again and (held := self._claim_any()):
            return held
        for chunk in self._look():
            if held := self._take_over(chunk):
                return held
        return self._claim_any()

    def _open_channels(self) -> list[Channel]:
        return [channel for channel in self.channels if channel not in self.run.stopped]

    def _look(self) -> list[Chunk]:
        """Which channels have anything unsent (``unsent``); gives the chunks that may be taken over."""
        run, provider = self.run, self.provider.name
        with run.ledger.read() as connection:
            if chunks.sendable(connection, run.batch).paused:
                self.unsent = []
                return []
            self.unsent = [
                channel
                for channel in self._open_channels()
                if chunks.has_unsent(connection, run.batch, run.step, channel, provider)
            ]
            ripe = [chunk for chunk in self._others(connection) if self._time_left(chunk) <= timedelta(0)]
        self.look_again = run.steady() + _LOOK_AGAIN
        return ripe

    # Others' chunks ----------------------------------------------------------------------------------------------

    def _others(self, connection: sa.Connection) -> list[Chunk]:
        """Open chunks that this worker may still have to finish."""
        channels = self._open_channels()
        others = [
            chunk
            for chunk in chunks.open_chunks(connection, self.run.batch, self.run.step)
            if chunk.channel in channels
            and chunk.provider == self.provider.name  # since the plan was changed, another's knows nothing of it
            and chunk.reference not in self.run.held
        ]
        steady = self.run.steady()
        before = self.seen
        self.seen = {
            chunk.reference: known
            if (known := before.get(chunk.reference)) is not None and known[0] == chunk
            else (chunk, steady)
            for chunk in others
        }
        return others

    def _time_left(self, chunk: Chunk) -> timedelta:
        """How long until a lease is over, and a call begun within it as well."""
        timeout = self.provider.limits.timeout
        by_wall = chunk.lease_until + timeout - self.run.wall()
        watched = timedelta(seconds=self.run.steady() - self.seen[chunk.reference][1])
        return min(by_wall, (LEASE + 1) * timeout + LONGEST_PAUSE - watched)

    def _until_others_end(self) -> timedelta | None:
        """How long to wait before looking again; ``None`` when there is nobody to wait for."""
        with self.run.ledger.read() as connection:
            if chunks.sendable(connection, self.run.batch).paused:
                return None
            others = self._others(connection)
        if not others:
            return None
        soonest = min(self._time_left(chunk) for chunk in others)
        return max(self.provider.limits.timeout / 10, min(soonest, _LONGEST_LOOK_AWAY))

    def _take_over(self, chunk: Chunk) -> Held | None:
        posted = not chunk.waiting or self.run.was_posted(chunk)

        def take(connection: sa.Connection) -> Held | None:
            lease_until, steady_until = self.run.lease(self.provider.limits)
            taken = chunks.take_over(connection, chunk, self.run.owner, lease_until)
            return None if taken is None else Held(taken, steady_until, taken_over=True, posted=posted)

        return self.run.write(take)

    # New chunks --------------------------------------------------------------------------------------------------

    def _claim_any(self) -> Held | None:
        while self.unsent:
            channel = self.unsent[0]
            if channel not in self.run.stopped:
                held = self.run.write(partial(self._claim_first, channel=channel))
                if held is not None:
                    return held
            self.unsent.pop(0)
        return None

    def _claim_first(self, connection: sa.Connection, channel: Channel) -> Held | None:
        state = chunks.sendable(connection, self.run.batch, lock=True)
        return self._claim(connection, state, channel)

    def _claim_next_in(self, connection: sa.Connection, state: Sendable, channel: str) -> Held | None:
        """The next chunk of a channel, in the transaction that records the last; ``None`` if it is time to look around."""
        run = self.run
        at_it = not run.ending.is_set() and channel not in run.stopped and self.unsent[:1] == [channel]
        return self._claim(connection, state, self.unsent[0]) if at_it and run.steady() < self.look_again else None

    def _claim(self, connection: sa.Connection, state: Sendable, channel: Channel) -> Held | None:
        run, limits = self.run, self.provider.limits
        if not state.lets(run.step):
            return None
        if channel not in run.numbers:
            run.numbers[channel] = chunks.count(connection, run.batch, run.step, channel)
        lease_until, steady_until = run.lease(limits)
        claimed = chunks.claim(
            connection,
            run.batch,
            run.step,
            channel,
            provider=self.provider.name,
            limit=run.most.get(channel, limits.messages),
            number=run.numbers[channel] + 1,
            owner=run.owner,
            lease_until=lease_until,
            now=run.now(),
            room=None if limits.bytes is None else Room(limits.bytes, limits.envelope),
        )
        if claimed is None:
            return None
        run.numbers[channel] += 1
        return Held(claimed.chunk, steady_until, taken_over=False, fresh=claimed.messages)
