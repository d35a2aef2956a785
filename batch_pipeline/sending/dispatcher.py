"""Sending each message once, whatever dies when (SPEC 2.7).

A chunk of messages is *claimed* in the ledger (a reference never used before, a lease and a fence), the claim is
*committed* to disk, the lease is *checked* again, the chunk is *posted*, and the answer *recorded* under the same
fence. Wherever a process dies, the chunk stays open with a lease that runs out, and whoever finds it then takes it
over and finishes it as its provider allows (``Recovery``).

The rules that keep two processes from posting one chunk at the same time:

- a lease lasts ten times the provider's time-out; who holds it posts only while at least one time-out of it is left;
- a takeover waits until the lease is over by one time-out more, so that a call begun in time has ended;
- the check right before a post looks at the ledger (is it still mine?), then at the machine's clock, and at a clock
  that nobody can set: a process that slept, or whose clock was put back, doesn't post;
- a lease whose end lies far ahead, because the clock was put back, counts as over when it was watched, unchanged,
  for as long as a lease can last.
"""

import random
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, cast

import sqlalchemy as sa

from batch_pipeline.errors import Refused
from batch_pipeline.ledger import batches, chunks, controls, paces
from batch_pipeline.ledger.chunks import Chunk, Room, Told
from batch_pipeline.ledger.engine import Ledger
from batch_pipeline.providers.protocol import (
    Answer,
    Channel,
    ChunkRefused,
    ChunkTooLarge,
    NotTaken,
    OutcomeUnknown,
    OutgoingMessage,
    Provider,
    ProviderStopped,
    PutOff,
    Recovery,
    RefusedMessage,
    Unfinished,
)

Step = Literal["primary", "fallback"]

LEASE = 10
"""Time-outs that a lease lasts."""
TRIES = 6
"""Calls made for a chunk before it is left to a later dispatch."""
_LONGEST_BACKOFF = timedelta(minutes=1)
_LONGEST_PAUSE = timedelta(minutes=10)
_LONGEST_LOOK_AWAY = timedelta(seconds=1)
_LOOK_AGAIN = 1.0
"""Seconds after which the ledger is looked over for what others left."""
_TOO_LARGE, _PUT_OFF = "too_large", "put_off"
"""Failure codes of a message that is too much for a call of its own, and of one that was put off at every try."""


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


def dispatch(  # noqa: PLR0913 - the clocks and the sleep are for tests
    ledger: Ledger,
    batch: str,
    providers: Mapping[Channel, Provider],
    *,
    step: Step = "primary",
    now: datetime | Callable[[], datetime],
    owner: str,
    wall: Callable[[], datetime] = lambda: datetime.now(UTC),
    steady: Callable[[], float] | None = None,
    sleep: Callable[[float], None] = time.sleep,
    on_progress: Callable[[int, int], None] | None = None,
    after_chunk: Callable[[], object] | None = None,
    before_post: Callable[[Chunk], object] | None = None,
    before_return: Callable[[Chunk], object] | None = None,
) -> Dispatched:
    """Sends every unsent message of a batch's step, and finishes the chunks that others left open.

    Any number of dispatches may work on one batch at once; each returns when nothing of the step is open that it
    could finish.

    Args:
        ledger: where the outbox is.
        batch: whose messages.
        providers: one for each channel; two channels may share one.
        step: ``primary`` or ``fallback``.
        now: business time, for the record: fixed, or asked anew at each chunk.
        owner: names this process in a lease, for a person who looks.
        wall: the machine's clock, for leases alone.
        steady: seconds by a clock that nobody sets, and that runs on while the machine sleeps.
        sleep: waits that many seconds.
        on_progress: told (messages answered, messages in all) now and then.
        after_chunk: called each time a chunk's answer is on disk; it may pause the batch.
        before_post: called before each call for a chunk, under its lease. What it raises keeps the chunk from being
            posted; ``ProviderStopped`` ends the channel.
        before_return: called before messages of a chunk that was surely not taken are unsent again.

    Raises:
        Refused: for an unknown batch, one without an outbox, or one planned for other providers than these.
    """
    run = _Dispatch(
        ledger=ledger,
        batch=batch,
        providers=providers,
        step=step,
        now=now if callable(now) else lambda: now,
        owner=owner,
        wall=wall,
        steady=steady or _seconds_since_boot,
        sleep=sleep,
        on_progress=on_progress,
        after_chunk=after_chunk,
        before_post=before_post,
        before_return=before_return,
    )
    return run.run()


def _seconds_since_boot() -> float:
    # BOOTTIME counts on while the machine is suspended; where there is none (macOS), monotonic has to do.
    clock = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
    return time.clock_gettime(clock)


class _LeaseLost(Exception):
    """The chunk is another's now, or its lease is over: nothing more is done with it here."""


class _Paused(Exception):
    """The batch was paused before a call: the chunk is put aside."""


@dataclass(frozen=True, slots=True)
class _Held:
    """A chunk that this process holds, and until when it may begin to post it."""

    chunk: Chunk
    steady_until: float
    taken_over: bool


@dataclass(slots=True)
class _Dispatch:
    """One run of ``dispatch``."""

    ledger: Ledger
    batch: str
    providers: Mapping[Channel, Provider]
    step: Step
    now: Callable[[], datetime]
    owner: str
    wall: Callable[[], datetime]
    steady: Callable[[], float]
    sleep: Callable[[float], None]
    on_progress: Callable[[int, int], None] | None
    after_chunk: Callable[[], object] | None
    before_post: Callable[[Chunk], object] | None
    before_return: Callable[[Chunk], object] | None
    done: Dispatched = field(default_factory=Dispatched)
    stopped: dict[str, str] = field(default_factory=dict[str, str])
    unsent: list[Channel] = field(default_factory=list[Channel])
    """Channels that had something unsent when the ledger was looked over."""
    look_again: float = 0
    """When to do that again, by the steady clock."""
    chunks: Counter[Channel] = field(default_factory=Counter[Channel])
    """Of a channel, before and by this run: they are numbered for people."""
    seen: dict[str, tuple[Chunk, float]] = field(default_factory=dict[str, tuple[Chunk, float]])
    """Others' chunks as they were when first seen so, and when that was by the steady clock."""
    most: dict[str, int] = field(default_factory=dict[str, int])
    """Messages that a chunk of a channel may have, where the provider's own limit turned out to be too many."""
    answered: int = 0
    total: int = 0

    def run(self) -> Dispatched:
        self._begin()
        while True:
            held = self._find_or_claim()
            if held is not None:
                self._carry(held)
                continue
            pause = self._until_others_end()
            if pause is None:
                return self._end()
            self.sleep(pause.total_seconds())

    def _begin(self) -> None:
        with self.ledger.write() if self.step == "fallback" else self.ledger.read() as connection:
            if batches.get(connection, self.batch).applied_plan is None:
                raise Refused(f"batch {self.batch} has no outbox yet: approve its plan first")
            if self.step == "fallback":
                chunks.drop_needless(connection, self.batch)
            waiting = chunks.unsent(connection, self.batch, self.step)
            open_now = chunks.open_chunks(connection, self.batch, self.step)
            begun = chunks.count_begun(connection, self.batch, self.step)
        self._refuse_other_providers({*waiting, *((chunk.channel, chunk.provider) for chunk in open_now)})
        self.answered = begun - sum(chunk.messages for chunk in open_now)
        self.total = begun + sum(waiting.values())
        self._tell(0)

    def _refuse_other_providers(self, planned: set[tuple[str, str]]) -> None:
        given = {channel: provider.name for channel, provider in self.providers.items()}
        for channel, provider in sorted(planned):
            if given.get(channel) != provider:
                raise Refused(
                    f"batch {self.batch}: messages by {channel} are planned for the provider {provider}, but the "
                    f"workspace names {given.get(channel, 'none')}: put it back, or make and approve the plan again"
                )

    def _end(self) -> Dispatched:
        if self.step == "fallback":
            with self.ledger.write() as connection:
                chunks.drop_needless(connection, self.batch)
        with self.ledger.read() as connection:
            unsent = sum(chunks.unsent(connection, self.batch, self.step).values())
            open_now = chunks.open_chunks(connection, self.batch, self.step)
            cancelled = chunks.sendable(connection, self.batch).cancelled
        left_open = sum(chunk.messages for chunk in open_now)
        if cancelled:  # a chunk that was given back since
            with self.ledger.write() as connection:
                controls.end_unsent_if_cancelled(connection, self.batch, self.now())
        return replace(self.done, unsent=unsent, left_open=left_open, stopped=self.stopped)

    # Finding work ------------------------------------------------------------------------------------------------

    def _find_or_claim(self) -> _Held | None:
        """A chunk to carry: one that others left, or else a new one; ``None`` when there is none to be had now.

        The ledger is looked over once a second: what a claim does by itself needs no look.
        """
        if self.steady() < self.look_again and (held := self._claim_next()):
            return held
        for chunk in self._look():
            if held := self._take_over(chunk):
                return held
        return self._claim_next()

    def _claim_next(self) -> _Held | None:
        while self.unsent:
            channel = self.unsent[0]
            if channel not in self.stopped and (held := self._claim(channel)):
                return held
            self.unsent.pop(0)
        return None

    def _look(self) -> list[Chunk]:
        """Which channels have anything unsent (``unsent``); gives the chunks that may be taken over."""
        with self.ledger.read() as connection:
            if chunks.sendable(connection, self.batch).paused:
                self.unsent = []
                return []
            self.unsent = [
                channel
                for channel, provider in self.providers.items()
                if channel not in self.stopped
                and chunks.has_unsent(connection, self.batch, self.step, channel, provider.name)
            ]
            ripe = [chunk for chunk in self._others(connection) if self._is_over(chunk)]
        self.look_again = self.steady() + _LOOK_AGAIN
        return ripe

    def _others(self, connection: sa.Connection) -> list[Chunk]:
        """Open chunks that this run may still have to finish."""
        others = [
            chunk
            for chunk in chunks.open_chunks(connection, self.batch, self.step)
            if chunk.channel not in self.stopped
        ]
        steady = self.steady()
        before = self.seen
        self.seen = {
            chunk.reference: known
            if (known := before.get(chunk.reference)) is not None and known[0] == chunk
            else (chunk, steady)
            for chunk in others
        }
        return others

    def _is_over(self, chunk: Chunk) -> bool:
        """Whether a lease is over, and a call begun within it as well."""
        return self._time_left(chunk) <= timedelta(0)

    def _time_left(self, chunk: Chunk) -> timedelta:
        timeout = self._timeout(chunk.channel)
        by_wall = chunk.lease_until + timeout - self.wall()
        watched = timedelta(seconds=self.steady() - self.seen[chunk.reference][1])
        return min(by_wall, (LEASE + 1) * timeout + _LONGEST_PAUSE - watched)

    def _until_others_end(self) -> timedelta | None:
        """How long to wait before looking again; ``None`` when there is nobody to wait for."""
        with self.ledger.read() as connection:
            if chunks.sendable(connection, self.batch).paused:
                return None
            others = self._others(connection)
        if not others:
            return None
        shortest = min(self._timeout(chunk.channel) for chunk in others) / 10
        soonest = min(self._time_left(chunk) for chunk in others)
        return max(shortest, min(soonest, _LONGEST_LOOK_AWAY))

    def _take_over(self, chunk: Chunk) -> _Held | None:
        with self.ledger.write() as connection:
            lease_until, steady_until = self._lease(chunk.channel)
            taken = chunks.take_over(connection, chunk, self.owner, lease_until)
        return None if taken is None else _Held(taken, steady_until, taken_over=True)

    def _claim(self, channel: Channel) -> _Held | None:
        provider = self.providers[channel]
        with self.ledger.write() as connection:
            state = chunks.sendable(connection, self.batch, lock=True)
            if not state.lets(self.step):
                return None
            lease_until, steady_until = self._lease(channel)
            limits = provider.limits
            chunk = chunks.claim(
                connection,
                self.batch,
                self.step,
                channel,
                provider=provider.name,
                limit=self.most.get(channel, limits.messages),
                number=self._number(connection, channel),
                owner=self.owner,
                lease_until=lease_until,
                now=self.now(),
                room=None if limits.bytes is None else Room(limits.bytes, limits.envelope),
            )
        if chunk is None:
            return None
        self.chunks[channel] += 1
        return _Held(chunk, steady_until, taken_over=False)

    def _number(self, connection: sa.Connection, channel: Channel) -> int:
        if channel not in self.chunks:
            self.chunks[channel] = chunks.count(connection, self.batch, self.step, channel)
        return self.chunks[channel] + 1

    # Leases ------------------------------------------------------------------------------------------------------

    def _timeout(self, channel: str) -> timedelta:
        return self._provider(channel).limits.timeout

    def _provider(self, channel: str) -> Provider:
        return next(provider for name, provider in self.providers.items() if name == channel)

    def _lease(self, channel: str, pause: timedelta = timedelta(0)) -> tuple[datetime, float]:
        """A lease from now on: its end by the machine's clock, and until when by the steady one a post may begin."""
        timeout = self._timeout(channel)
        ends = self.wall() + pause + LEASE * timeout
        return ends, self.steady() + (pause + (LEASE - 1) * timeout).total_seconds()

    def _may_post(self, held: _Held, *, posted: bool) -> bool:
        """Whether the chunk is still ours for as long as a call may take. The clocks last: that check is instant.

        Raises ``_Paused`` where it is, but may not go now, or was cancelled before it was ever posted.
        """
        with self.ledger.read() as connection:
            if not chunks.is_held(connection, held.chunk):
                return False
            state = chunks.sendable(connection, self.batch)
            if state.paused or not (posted or state.lets(self.step)):
                raise _Paused
        in_time = self.wall() + self._timeout(held.chunk.channel) <= held.chunk.lease_until
        return in_time and self.steady() <= held.steady_until

    def _renew(self, held: _Held, pause: timedelta) -> _Held:
        """Moves the lease past a pause, if it is still held."""
        if self.steady() > held.steady_until:
            raise _LeaseLost
        with self.ledger.write() as connection:
            lease_until, steady_until = self._lease(held.chunk.channel, pause)
            renewed = chunks.renew(connection, held.chunk, lease_until)
        if renewed is None:
            raise _LeaseLost
        return replace(held, chunk=renewed, steady_until=steady_until)

    # Posting -----------------------------------------------------------------------------------------------------

    def _carry(self, held: _Held) -> None:
        """Brings a chunk to an answer, or leaves it open. Once its lease is lost it is another's, and left alone."""
        with suppress(_LeaseLost):
            self._bring_to_an_answer(held, self._provider(held.chunk.channel))

    def _bring_to_an_answer(self, held: _Held, provider: Provider) -> None:
        posted = held.taken_over  # and what became of it isn't known of all
        unfinished: Unfinished | None = None
        for attempt in range(TRIES):
            if posted and not self._can_be_settled(held, provider):
                self._leave_unconfirmed(held)
                return
            held = self._pace(held, provider, asks=posted and provider.recovery is Recovery.CAN_BE_ASKED)
            unfinished = self._call(held, provider, posted=posted)
            if unfinished is None:
                return
            posted = posted or isinstance(unfinished, OutcomeUnknown)
            self._note(held, unfinished)
            if attempt + 1 < TRIES and not (posted and not self._can_be_settled(held, provider)):
                held = self._wait(held, max(self._pause(provider, attempt), unfinished.retry_after))
        if isinstance(unfinished, PutOff) and not posted:  # or it would be claimed first, and stop the others, for ever
            self._refuse(held, _PUT_OFF)
            return
        reason = f"{provider.name} can't be reached: {TRIES} calls, the last: {unfinished}"
        self._stop(held, reason, give_back=not posted)

    def _call(self, held: _Held, provider: Provider, *, posted: bool) -> Unfinished | None:
        """One call for a chunk, and what follows of its answer; gives what is to be tried again."""
        try:
            self._record(held, self._post(held, provider, posted=posted))
        except ProviderStopped as stop:
            self._note(held, stop)
            self._stop(held, str(stop), give_back=not posted)
        except (OutcomeUnknown, NotTaken) as unfinished:
            return unfinished
        except (ChunkRefused, ChunkTooLarge) as refusal:
            # Of this call nothing was taken. Whether an earlier one was, only who is asked can tell.
            if posted and provider.recovery is not Recovery.CAN_BE_ASKED:
                self._leave_unconfirmed(held)
            elif isinstance(refusal, ChunkRefused):
                self._give_back_or_stop(held, refusal)
            else:
                self._cut(held)
        except _Paused:
            self._put_aside(held, give_back=not posted)
        return None

    def _can_be_settled(self, held: _Held, provider: Provider) -> bool:
        """Whether the provider can still tell, or sees to it itself, that a chunk posted before isn't taken twice."""
        remembers = provider.limits.remembers
        in_time = remembers is None or self.now() - held.chunk.claimed_at < remembers
        return provider.recovery is not Recovery.NEITHER and in_time

    def _give_back_or_stop(self, held: _Held, refusal: ChunkRefused) -> None:
        if refusal.refused:
            self._give_back(held, refusal.refused)
        else:  # the same would be refused again
            self._stop(held, "a chunk was refused without naming a message", give_back=True)

    def _cut(self, held: _Held) -> None:
        """Gives back a chunk that is too much for one call; the next of its channel have half as many messages."""
        if held.chunk.messages > 1:
            self.most[held.chunk.channel] = held.chunk.messages // 2
            self._give_back(held, ())
            return
        self._refuse(held, _TOO_LARGE)

    def _refuse(self, held: _Held, code: str) -> None:
        """Ends the messages of a chunk that nothing more can be done for: they are in the follow-up list."""
        with self.ledger.read() as connection:
            left = [message.reference for message in chunks.messages(connection, held.chunk, unanswered=True)]
        self._give_back(held, [RefusedMessage(reference, code) for reference in left])

    def _pace(self, held: _Held, provider: Provider, *, asks: bool) -> _Held:
        """Waits until the account may make the chunk's requests."""
        limits = provider.limits
        if limits.per_minute is None:
            return held
        calls = (held.chunk.messages if limits.one_by_one else 1) * (2 if asks else 1)
        with self.ledger.write() as connection:
            account = f"{provider.name}:{limits.account}"
            pause = paces.book(connection, account, calls, limits.per_minute, self.wall())
        return self._wait(held, pause) if pause else held

    def _wait(self, held: _Held, pause: timedelta) -> _Held:
        """Waits under a lease that covers it."""
        pause = min(pause, _LONGEST_PAUSE)
        renewed = self._renew(held, pause)
        self.sleep(pause.total_seconds())
        return renewed

    def _note(self, held: _Held, unfinished: Unfinished) -> None:
        """Records what is known of a call without an answer."""
        if unfinished.accepted or unfinished.refused:
            self._record_part(held, unfinished.accepted, unfinished.refused)

    def _record_part(self, held: _Held, accepted: Iterable[str], refused: Iterable[RefusedMessage] = ()) -> None:
        with self.ledger.write() as connection:
            if not chunks.record_part(connection, held.chunk, accepted, _pairs(refused), self.now()):
                raise _LeaseLost

    def _post(self, held: _Held, provider: Provider, *, posted: bool) -> Answer:
        """Posts what has to be posted.

        A provider that deduplicates by the chunk gets it whole each time. Any other gets what isn't known to be
        answered, and one that can be asked only as far as it doesn't hold it.
        """
        again_whole = provider.recovery is Recovery.DEDUPLICATES
        with self.ledger.read() as connection:
            rows = chunks.messages(connection, held.chunk, unanswered=not again_whole)
        messages = [OutgoingMessage(*row) for row in cast(list[Any], rows)]
        if posted and messages and provider.recovery is Recovery.CAN_BE_ASKED:
            there = provider.held([message.reference for message in messages])
            self._record_part(held, there)
            messages = [message for message in messages if message.reference not in there]
        if not messages:
            return Answer()
        if self.before_post is not None:  # which may take its time: the lease is looked at after it
            self.before_post(held.chunk)
        if not self._may_post(held, posted=posted):
            raise _LeaseLost
        return provider.send(held.chunk.reference, messages, self.now())

    def _pause(self, provider: Provider, attempt: int) -> timedelta:
        """Doubling, and never the same for two processes. At least a time-out: the lost call may yet be carried out."""
        timeout = provider.limits.timeout
        return max(timeout, min(timeout * 2**attempt, _LONGEST_BACKOFF)) * random.uniform(1, 1.5)  # noqa: S311

    # Recording ---------------------------------------------------------------------------------------------------

    def _record(self, held: _Held, answer: Answer) -> None:
        with self.ledger.write() as connection:
            told = chunks.settle(connection, held.chunk, _pairs(answer.refused), self.now())
        self._count(held, told)

    def _leave_unconfirmed(self, held: _Held) -> None:
        with self.ledger.write() as connection:
            told = chunks.leave_unconfirmed(connection, held.chunk, self.now())
        self._count(held, told)

    def _give_back(self, held: _Held, refused: Sequence[RefusedMessage]) -> None:
        if self.before_return is not None:
            self.before_return(held.chunk)
        with self.ledger.write() as connection:
            told = chunks.give_back(connection, held.chunk, _pairs(refused), self.now())
        self._count(held, told)

    def _stop(self, held: _Held, reason: str, *, give_back: bool) -> None:
        """Ends a channel. Its chunk is left for the next dispatch."""
        self.stopped[held.chunk.channel] = reason
        self._put_aside(held, give_back=give_back)

    def _put_aside(self, held: _Held, *, give_back: bool) -> None:
        """Its messages are unsent again, or it stays open with its lease given up."""
        if give_back:
            self._give_back(held, ())
            return
        with self.ledger.write() as connection:
            chunks.renew(connection, held.chunk, self.wall())

    def _count(self, held: _Held, told: Told | None) -> None:
        if told is None:  # the lease was lost: another counts
            return
        counted = sum(told)
        self.done = replace(
            self.done,
            accepted=self.done.accepted + told.accepted,
            refused=self.done.refused + told.refused,
            unconfirmed=self.done.unconfirmed + told.unconfirmed,
            taken_over=self.done.taken_over + (counted if held.taken_over else 0),
        )
        self._tell(counted)
        if self.after_chunk is not None:
            self.after_chunk()

    def _tell(self, messages: int) -> None:
        self.answered += messages
        if self.on_progress is not None:
            self.on_progress(min(self.answered, self.total), self.total)


def _pairs(refused: Iterable[RefusedMessage]) -> list[tuple[str, str]]:
    return [(message.reference, message.failure_code) for message in refused]
