"""Bringing a chunk that is held to an answer: the calls, the waits between them, and what is recorded of each."""

import random
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields, replace
from datetime import timedelta
from typing import Any, cast

import sqlalchemy as sa
from sqlalchemy.exc import SQLAlchemyError

from batch_pipeline.errors import Refused
from batch_pipeline.ledger import chunks, links, paces
from batch_pipeline.ledger.chunks import Sendable, Told
from batch_pipeline.providers.protocol import (
    Answer,
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
from batch_pipeline.sending._run import LONGEST_PAUSE, Held, Run

TRIES = 6
"""Calls made for a chunk before it is left to a later dispatch."""
_SHORTEST_BACKOFF = timedelta(seconds=5)
_LONGEST_BACKOFF = timedelta(minutes=1)
_SETTLE_AGAIN = timedelta(seconds=1)
_TOO_LARGE, _PUT_OFF = "too_large", "put_off"
"""Failure codes of a message that is too much for a call of its own, and of one that was put off at every try."""
_TOO_MANY_TOO_LARGE = 3
"""Messages in a row: then it isn't the messages."""


class _LeaseLost(Exception):
    """The chunk is another's now, or its lease is over: nothing more is done with it here."""


class _Paused(Exception):
    """The batch was paused before a call, its channel stopped, or the run is about to end: the chunk is put aside."""


class _Cancelled(Exception):
    """The batch was cancelled before a call: nothing of it is posted any more."""


@dataclass(slots=True)
class Carrier:
    """Carries a provider's chunks, one at a time.

    ``claims_next`` claims another chunk of a channel in the transaction that records an answer: what costs is the
    commit, so one does for both.
    """

    run: Run
    provider: Provider
    claims_next: Callable[[sa.Connection, Sendable, str], Held | None]

    def carry(self, held: Held) -> Held | None:
        """Brings a chunk to an answer, or leaves it open; gives the chunk that was claimed with the answer's record.

        Once a lease is lost the chunk is another's, and left alone.
        """
        with suppress(_LeaseLost):
            return self._bring_to_an_answer(held)
        return None

    def _bring_to_an_answer(self, held: Held) -> Held | None:
        posted = held.posted  # and what became of it isn't known of all
        others = self.run.accepted[held.chunk.channel]
        for attempt in range(TRIES):
            if posted and not self._can_be_settled(held):
                self._leave_unconfirmed(held)
                return None
            held = self._pace(held, posted=posted, begun=posted or attempt > 0)
            answer = self._call(held, posted=posted)
            if isinstance(answer, Answer):
                return self._record(held, answer)
            if answer is None:
                return None
            posted = posted or isinstance(answer, OutcomeUnknown)
            self._note(held, answer)
            self._hold_back(answer)
            if answer.retry_after > LONGEST_PAUSE:
                minutes = answer.retry_after // timedelta(minutes=1)
                self._stop(held, f"{answer}: it asks to be left alone for {minutes} minutes", give_back=not posted)
                return None
            if attempt + 1 < TRIES and not (posted and not self._can_be_settled(held)):
                held = self._wait(held, max(self._pause(answer, attempt), answer.retry_after), begun=True)
            elif attempt + 1 == TRIES:
                takes_others = self.run.accepted[held.chunk.channel] > others
                self._give_up(held, answer, posted=posted, takes_others=takes_others)
        return None

    def _give_up(self, held: Held, last: Unfinished, *, posted: bool, takes_others: bool) -> None:
        if posted and not self._can_be_settled(held):
            self._leave_unconfirmed(held)
        elif isinstance(last, PutOff) and not posted:  # or it would be claimed first, and stop the others, for ever
            self._refuse(held, _PUT_OFF)
        elif takes_others and not posted:  # from other workers meanwhile: more at once than it likes, perhaps
            self._give_back(held, ())
        else:
            what = "can't be reached" if isinstance(last, OutcomeUnknown) else "takes nothing now"
            self._stop(held, f"{self.provider.name} {what}: {TRIES} calls, the last: {last}", give_back=not posted)

    def _call(self, held: Held, *, posted: bool) -> Answer | Unfinished | None:
        """One call for a chunk: its answer, or what is to be tried again; ``None`` when the chunk is dealt with."""
        asked = self.provider.recovery is Recovery.CAN_BE_ASKED
        try:
            return self._post(held, posted=posted)
        except ProviderStopped as stop:
            self._note(held, stop)
            self._stop(held, str(stop), give_back=not posted)
        except (OutcomeUnknown, NotTaken) as unfinished:
            return unfinished
        except _Paused:
            self._put_aside(held, give_back=not posted)
        except (_Cancelled, ChunkRefused, ChunkTooLarge) as refusal:
            # Of this call nothing was taken. Whether an earlier one was, only who is asked can tell.
            if posted and not asked:
                self._leave_unconfirmed(held)
            elif isinstance(refusal, ChunkRefused):
                self._give_back_or_stop(held, refusal)
            elif isinstance(refusal, ChunkTooLarge):
                self._cut(held)
            else:
                self._give_back(held, ())
        return None

    def _can_be_settled(self, held: Held) -> bool:
        """Whether the provider can still tell, or sees to it itself, that a chunk posted before isn't taken twice."""
        remembers = self.provider.limits.remembers
        in_time = remembers is None or self.run.now() - held.chunk.claimed_at < remembers
        return self.provider.recovery is not Recovery.NEITHER and in_time

    def _give_back_or_stop(self, held: Held, refusal: ChunkRefused) -> None:
        if refusal.refused:
            self._give_back(held, refusal.refused)
        else:  # the same would be refused again
            self._stop(held, "a chunk was refused without naming a message", give_back=True)

    def _cut(self, held: Held) -> None:
        """Gives back a chunk that is too much for one call; the next of its channel have half as many messages."""
        channel = held.chunk.channel
        if held.chunk.messages > 1:
            half = held.chunk.messages // 2
            self.run.most[channel] = min(half, self.run.most.get(channel, half))
            self._give_back(held, ())
            return
        self.run.too_large[channel] += 1
        if self.run.too_large[channel] < _TOO_MANY_TOO_LARGE:
            self._refuse(held, _TOO_LARGE)
        else:
            reason = f"{self.provider.name} calls every message too large, one by one: ask who runs it"
            self._stop(held, reason, give_back=True)

    def _refuse(self, held: Held, code: str) -> None:
        """Ends the messages of a chunk that nothing more can be done for: they are in the follow-up list."""
        with self.run.ledger.read() as connection:
            left = [message.reference for message in chunks.messages(connection, held.chunk, unanswered=True)]
        self._give_back(held, [RefusedMessage(reference, code) for reference in left])

    # Posting -----------------------------------------------------------------------------------------------------

    def _post(self, held: Held, *, posted: bool) -> Answer:
        """Posts what has to be posted.

        A provider that deduplicates by the chunk gets it whole each time. Any other gets what isn't known to be
        answered, and one that can be asked only as far as it doesn't hold it.
        """
        again_whole = self.provider.recovery is Recovery.DEDUPLICATES
        self._tell_of_post(held, posted=posted)  # which may take its time: the lease is looked at after it
        with self.run.ledger.read() as connection:
            rows = held.fresh or chunks.messages(connection, held.chunk, unanswered=not again_whole)
            state = chunks.standing(connection, held.chunk)
        whole = map(self.run.complete, rows)
        messages = [OutgoingMessage(*row[: len(fields(OutgoingMessage))]) for row in cast(Iterable[Any], whole)]
        if posted and messages and self.provider.recovery is Recovery.CAN_BE_ASKED:
            there = self.provider.held([message.reference for message in messages])
            self._record_part(held, there)
            messages = [message for message in messages if message.reference not in there]
            with self.run.ledger.read() as connection:
                state = chunks.standing(connection, held.chunk)
        if not messages:
            return Answer()
        self._check_that_it_may_go(held, state, posted=posted)
        return self.provider.send(held.chunk.reference, messages, self.run.now())

    def _tell_of_post(self, held: Held, *, posted: bool) -> None:
        if self.run.before_post is None:
            return
        try:
            self.run.before_post(held.chunk, held.fresh)
        except Exception as fault:
            if not posted and not isinstance(fault, ProviderStopped):  # nobody else knows that it never was
                with suppress(Exception):
                    self._give_back(held, ())
            raise

    def _check_that_it_may_go(self, held: Held, state: Sendable | None, *, posted: bool) -> None:
        """Raises unless the chunk is ours for as long as a call may take, and its batch neither paused nor cancelled.

        After a cancel nothing is posted, not even what may have been posted before: a chunk whose claimer died may not
        have been. The clocks are looked at last: that check is instant.
        """
        if state is None:
            raise _LeaseLost
        if state.paused or held.chunk.channel in self.run.stopped or self.run.ending.is_set():
            raise _Paused
        if not state.lets(self.run.step):
            raise _Cancelled
        if not self.run.is_in_time(held, self.provider.limits):
            # What was never posted is certain, and given back: unless it is another's by now, as the fence will tell.
            raise _LeaseLost if posted else _Paused

    # Waiting -----------------------------------------------------------------------------------------------------

    def _pace(self, held: Held, *, posted: bool, begun: bool) -> Held:
        """Waits until the account may make the chunk's requests."""
        limits = self.provider.limits
        if limits.per_minute is None:
            return held
        asks = posted and self.provider.recovery is Recovery.CAN_BE_ASKED
        calls = (held.chunk.messages if limits.one_by_one else 1) * (2 if asks else 1)
        per_minute = limits.per_minute
        left = self.run.write(lambda con: paces.book(con, self._account, calls, per_minute, self.run.wall()))
        while left:
            some = min(left, LONGEST_PAUSE)
            held = self._wait(held, some, begun=begun)
            left -= some
        return held

    def _hold_back(self, unfinished: Unfinished) -> None:
        """Tells all who post to the account that its provider wants to be left alone."""
        limits = self.provider.limits
        if limits.per_minute is not None and unfinished.retry_after:
            pause = min(unfinished.retry_after, LONGEST_PAUSE)
            self.run.write(lambda connection: paces.hold_back(connection, self._account, self.run.wall() + pause))

    @property
    def _account(self) -> str:
        return paces.account_of(self.provider.name, self.provider.limits.account)

    def _wait(self, held: Held, pause: timedelta, *, begun: bool) -> Held:
        """Waits under a lease that covers it.

        Before the first call for a chunk the ledger says so for that long: if the process dies waiting, nobody has to be
        asked what became of the messages. Never after a call, though it took nothing: a copy of the ledger from such a
        wait couldn't be told from one that has forgotten the next call.
        """
        if self.run.steady() > held.steady_until:
            raise _LeaseLost
        held = self._renew(held, pause, waiting=not begun)
        self.run.sleep(pause)
        return held if begun else self._renew(held, timedelta(0), waiting=False)

    def _renew(self, held: Held, pause: timedelta, *, waiting: bool) -> Held:
        def renew(connection: sa.Connection) -> Held:
            lease_until, steady_until = self.run.lease(self.provider.limits, pause)
            renewed = chunks.renew(connection, held.chunk, lease_until, waiting=waiting)
            if renewed is None:
                raise _LeaseLost
            return replace(held, chunk=renewed, steady_until=steady_until, fresh=None)

        return self.run.write(renew)

    def _pause(self, unfinished: Unfinished, attempt: int) -> timedelta:
        """Doubling, and never the same for two processes. What may yet be carried out is given a whole time-out."""
        unknown = isinstance(unfinished, OutcomeUnknown)
        first = self.provider.limits.timeout if unknown else _SHORTEST_BACKOFF
        return max(first, min(first * 2**attempt, _LONGEST_BACKOFF)) * random.uniform(1, 1.5)  # noqa: S311

    # Recording ---------------------------------------------------------------------------------------------------

    def _record(self, held: Held, answer: Answer) -> Held | None:
        try:
            told, following = self._settle_and_claim(held, answer)
        except (Refused, SQLAlchemyError):
            told, following = self._settle_at_last(held, answer), None
        try:
            self.run.count(held, told)
        except BaseException:
            if following is not None:  # nobody else knows that it was never posted
                chunk = following.chunk
                self.run.write(lambda connection: chunks.give_back(connection, chunk, (), self.run.now()))
            raise
        return following

    def _settle_and_claim(self, held: Held, answer: Answer) -> tuple[Told | None, Held | None]:
        def settle_and_claim(connection: sa.Connection) -> tuple[Told | None, Held | None]:
            # First: whoever cancels locks the batch before its messages, and so does this.
            state = chunks.sendable(connection, self.run.batch, lock=True)
            told = chunks.settle(connection, held.chunk, _pairs(answer.refused), self.run.now())
            return told, None if told is None else self.claims_next(connection, state, held.chunk.channel)

        return self.run.write(settle_and_claim)

    def _settle_at_last(self, held: Held, answer: Answer) -> Told | None:
        """Records an answer after the ledger failed to: what is known must not be lost to a server that starts again."""
        for left in reversed(range(TRIES)):
            self.run.sit_out(_SETTLE_AGAIN)
            try:
                return self.run.write(
                    lambda connection: chunks.settle(connection, held.chunk, _pairs(answer.refused), self.run.now())
                )
            except (Refused, SQLAlchemyError):
                if not left or self.run.steady() > held.steady_until:
                    raise
        return None

    def _note(self, held: Held, unfinished: Unfinished) -> None:
        """Records what is known of a call without an answer."""
        if unfinished.accepted or unfinished.refused:
            self._record_part(held, unfinished.accepted, unfinished.refused)

    def _record_part(self, held: Held, accepted: Iterable[str], refused: Iterable[RefusedMessage] = ()) -> None:
        def record(connection: sa.Connection) -> None:
            if not chunks.record_part(connection, held.chunk, accepted, _pairs(refused), self.run.now()):
                raise _LeaseLost

        self.run.write(record)

    def _leave_unconfirmed(self, held: Held) -> None:
        told = self.run.write(lambda connection: chunks.leave_unconfirmed(connection, held.chunk, self.run.now()))
        self.run.count(held, told)

    def _give_back(self, held: Held, refused: Sequence[RefusedMessage]) -> None:
        if self.run.before_return is not None:
            self.run.before_return(held.chunk)

        def give_back(connection: sa.Connection) -> Told | None:
            told = chunks.give_back(connection, held.chunk, _pairs(refused), self.run.now())
            if told is not None:  # and claimed again at once, maybe
                links.withdraw_revoked(connection, self.run.batch, self.run.now())
            return told

        self.run.count(held, self.run.write(give_back))

    def _stop(self, held: Held, reason: str, *, give_back: bool) -> None:
        """Ends a channel. Its chunk is left for the next dispatch."""
        self.run.stopped[held.chunk.channel] = reason
        self._put_aside(held, give_back=give_back)

    def _put_aside(self, held: Held, *, give_back: bool) -> None:
        """Its messages are unsent again, or it stays open with its lease given up."""
        if give_back:
            self._give_back(held, ())
            return
        self.run.write(lambda connection: chunks.renew(connection, held.chunk, self.run.wall()))


def _pairs(refused: Iterable[RefusedMessage]) -> list[tuple[str, str]]:
    return [(message.reference, message.failure_code) for message in refused]
