from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import given, settings
from hypothesis import strategies as st
from typing_extensions import override

from batch_pipeline.errors import Refused
from batch_pipeline.ledger import chunks, due, outbox
from batch_pipeline.ledger import paces as paces_
from batch_pipeline.ledger.engine import Ledger
from batch_pipeline.ledger.tables import attempts, batches, paces
from batch_pipeline.ledger.tables import chunks as chunks_table
from batch_pipeline.providers.protocol import (
    Answer,
    ChunkRefused,
    ChunkTooLarge,
    Limits,
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
from batch_pipeline.providers.simulator import Shares
from batch_pipeline.sending import _worker
from batch_pipeline.sending._carrier import TRIES
from batch_pipeline.sending._run import LEASE
from batch_pipeline.sending.dispatcher import Dispatched
from batch_pipeline_tests.ledger.given import (
    BATCH,
    LATER_PLAN,
    NOW,
    Recipient,
    approve,
    attempt_rows,
    lines,
    queue,
    rows,
    set_attempts,
)
from batch_pipeline_tests.ledgers import on_postgresql_slowly
from batch_pipeline_tests.sending.worlds import TIMEOUT, Died, World

RECOVERIES = pytest.mark.parametrize("recovery", list(Recovery))


@pytest.fixture
def world(folder: Path) -> World:
    return World(folder)


class Scripted(Provider):
    """A provider whose answers a test writes down; after the last it accepts all."""

    def __init__(
        self,
        *script: Exception | Answer,
        recovery: Recovery = Recovery.DEDUPLICATES,
        limits: Limits = Limits(3, TIMEOUT),  # noqa: B008 - frozen
    ) -> None:
        self.script = list(script)
        self._limits = limits
        self.posts: list[tuple[str, list[str]]] = []
        self.asked: list[list[str]] = []
        self.holds: set[str] = set()
        self._recovery = recovery

    @property
    @override
    def name(self) -> str:
        return "simulator"

    @property
    @override
    def recovery(self) -> Recovery:
        return self._recovery

    @property
    @override
    def limits(self) -> Limits:
        return self._limits

    @override
    def send(self, chunk_reference: str, messages: Sequence[OutgoingMessage], now: datetime) -> Answer:
        self.posts.append((chunk_reference, [message.reference for message in messages]))
        answer = self.script.pop(0) if self.script else Answer()
        if isinstance(answer, Exception):
            raise answer
        return answer

    @override
    def held(self, references: Sequence[str]) -> set[str]:
        self.asked.append(list(references))
        return self.holds & set(references)

    @override
    def close(self) -> None:
        pass


def _reference(line: int) -> str:
    return f"{BATCH}:{line}:primary"


# The plain run


def test_each_message_goes_once_in_chunks_of_the_providers_size(world: World) -> None:
    assert world.process() == Dispatched(accepted=10)
    assert world.journal() == dict.fromkeys(world.references(), 1)
    assert world.states() == [(line, NOW, None, None) for line in range(2, 12)]
    assert [row[0] for row in _chunks(world, "messages")] == [3, 3, 3, 1]


def _chunks(world: World, *columns: str) -> list[tuple[Any, ...]]:
    query = sa.select(*(chunks_table.c[name] for name in columns)).order_by(chunks_table.c.reference)
    with world.ledger.read() as connection:
        return [tuple(row) for row in connection.execute(query)]


def test_dispatching_again_sends_nothing(world: World) -> None:
    world.process()
    assert world.process() == Dispatched()
    assert set(world.journal().values()) == {1}


def test_a_chunk_reference_names_batch_step_channel_and_number_and_is_like_no_other(world: World) -> None:
    world.process()
    references = [row[0] for row in _chunks(world, "reference")]
    assert [reference.rpartition("-")[0] for reference in references] == [
        f"{BATCH}/primary/sms/{number:04d}" for number in range(1, 5)
    ]
    assert len({reference.rpartition("-")[2] for reference in references}) == 4


def test_every_channel_goes_by_its_provider_in_chunks_of_its_own(folder: Path) -> None:
    mixed = [Recipient(2), Recipient(3, "email"), Recipient(4, "nhs_app"), Recipient(5, "email")]
    world = World(folder, recipients=mixed)
    assert world.process().accepted == 4
    assert sorted(_chunks(world, "channel", "messages")) == [("email", 2), ("nhs_app", 1), ("sms", 1)]


@pytest.mark.parametrize("end", ["held_back_at", "cancelled_at", "expired_at"])
def test_who_is_held_back_cancelled_or_expired_is_not_sent_to(world: World, end: str) -> None:
    set_attempts(world.ledger, {end: NOW}, line=3)
    assert world.process() == Dispatched(accepted=9)
    assert _reference(3) not in world.journal()


@pytest.mark.parametrize("told", ["accepted_at", "delivered_at", "read_at", "failed_at"])
def test_what_a_receipt_has_told_of_is_not_sent_although_the_ledger_forgot_that_it_was(world: World, told: str) -> None:
    set_attempts(world.ledger, {told: NOW}, line=3)
    assert world.process().accepted == 9
    assert _reference(3) not in world.journal()


def test_progress_is_told_from_nothing_to_everything(world: World) -> None:
    told: list[tuple[int, int]] = []
    world.process(on_progress=lambda done, total: told.append((done, total)))
    assert told == [(0, 10), (3, 10), (6, 10), (9, 10), (10, 10)]


def test_a_moving_business_time_is_asked_at_every_chunk(world: World) -> None:
    times = iter(NOW + timedelta(minutes=number) for number in range(100))
    world.process(now=lambda: next(times))
    assert len({accepted for _, accepted, _, _ in world.states()}) == 4


def test_an_unknown_batch_or_one_without_an_outbox_is_refused(folder: Path) -> None:
    world = World(folder)
    with world.ledger.write() as connection:
        connection.execute(sa.update(batches).values(applied_plan=None))
    with pytest.raises(Refused, match="no outbox yet"):
        world.process()


def test_a_batch_planned_for_another_provider_is_refused(folder: Path) -> None:
    world = World(folder, recipients=[Recipient(2, provider="nhs_notify")])
    with pytest.raises(Refused, match="planned for the provider nhs_notify, but the workspace names simulator"):
        world.process()


# Pausing and cancelling


def test_a_paused_batch_waits_within_one_chunk(world: World) -> None:
    posts = 0

    def pause_at_the_second(moment: str) -> None:
        nonlocal posts
        posts += moment == "before post"
        if moment == "before post" and posts == 2:
            _set_batch(world, paused_at=NOW)

    assert world.process(pause_at_the_second) == Dispatched(accepted=6, unsent=4)
    assert world.process() == Dispatched(unsent=4)
    _set_batch(world, paused_at=None)
    assert world.process() == Dispatched(accepted=4)


def _set_batch(world: World, **values: Any) -> None:
    with world.ledger.write() as connection:
        connection.execute(sa.update(batches).values(**values))


def test_a_cancelled_batch_sends_nothing_new(world: World) -> None:
    _set_batch(world, cancelled_at=NOW)
    assert world.process() == Dispatched(unsent=10)
    assert world.journal() == {}


# Answers


def test_refused_messages_have_failed_and_the_others_are_accepted(world: World) -> None:
    provider = Scripted(Answer([RefusedMessage(_reference(3), "CM_INVALID_VALUE")]))
    assert world.dispatch(world.ledger, provider) == Dispatched(accepted=9, refused=1)
    assert attempt_rows(world.ledger, "accepted_at", "failed_at", "failure_kind", "failure_code", line=3) == [
        (None, NOW, "refused", "CM_INVALID_VALUE")
    ]


def test_a_chunk_refused_for_some_goes_without_them_under_a_new_reference(world: World) -> None:
    provider = Scripted(ChunkRefused([RefusedMessage(_reference(3), "CM_INVALID_NHS_NUMBER")]))
    assert world.dispatch(world.ledger, provider) == Dispatched(accepted=9, refused=1)
    first, second = provider.posts[:2]
    assert first[0] != second[0]
    assert (first[1], second[1]) == (
        [_reference(2), _reference(3), _reference(4)],
        [_reference(2), _reference(4), _reference(5)],
    )


def test_what_the_provider_turned_out_to_hold_is_not_sent_again_when_the_rest_of_its_chunk_is_refused(
    world: World,
) -> None:
    refusal = ChunkRefused([RefusedMessage(_reference(3), "CM_INVALID_NHS_NUMBER")])
    provider = Scripted(OutcomeUnknown("no answer"), refusal, recovery=Recovery.CAN_BE_ASKED)
    provider.holds = {_reference(2)}
    assert world.dispatch(world.ledger, provider) == Dispatched(accepted=9, refused=1)
    assert [_reference(2) in posted for _, posted in provider.posts] == [True, *[False] * 4]
    assert attempt_rows(world.ledger, "line", chunk=None) == []


@pytest.mark.parametrize("told", ["accepted", "delivered", "read", "failed"])
def test_what_a_receipt_tells_of_stays_begun_when_its_chunk_is_given_back(world: World, told: str) -> None:
    held = _claim(world)
    set_attempts(world.ledger, {f"{told}_at": NOW}, line=2)
    with world.ledger.write() as connection:
        assert chunks.give_back(connection, held, [], NOW) == (1, 0, 0)
    assert attempt_rows(world.ledger, "line", "accepted_at", chunk=held.reference) == [(2, NOW)]


@pytest.mark.parametrize("told", ["accepted", "delivered", "read", "failed"])
def test_what_a_receipt_has_told_of_is_no_plans_to_change_and_nothing_to_wait_for(world: World, told: str) -> None:
    set_attempts(world.ledger, {f"{told}_at": NOW}, line=2)
    approve(world.ledger, plan=LATER_PLAN)
    outbox.write(world.ledger, BATCH, LATER_PLAN, rows([Recipient(2, text="Another"), *lines(8, start=3)]), NOW)
    assert attempt_rows(world.ledger, "text", line=2) == [("Your flu jab is due.",)]
    assert world.process() == Dispatched(accepted=8)
    with world.ledger.read() as connection:
        assert due.ready_to_send(connection) == []


def test_a_chunk_refused_without_a_name_stops_the_channel(world: World) -> None:
    result = world.dispatch(world.ledger, Scripted(ChunkRefused([])))
    assert result == Dispatched(unsent=10, stopped={"sms": "a chunk was refused without naming a message"})


def test_a_stopped_provider_leaves_everything_unsent_with_its_reason(world: World) -> None:
    result = world.dispatch(world.ledger, Scripted(ProviderStopped("the key was refused")))
    assert result == Dispatched(unsent=10, stopped={"sms": "the key was refused"})
    assert attempt_rows(world.ledger, "chunk", "begun_at") == [(None, None)] * 10
    assert world.process() == Dispatched(accepted=10)


def test_another_channel_goes_on_when_one_stops(folder: Path) -> None:
    world = World(folder, recipients=[*lines(3, "email"), *lines(3, start=10)])
    result = world.dispatch(world.ledger, Scripted(ProviderStopped("no")))
    assert (result.accepted, result.unsent, list(result.stopped)) == (3, 3, ["email"])


# Lost answers


@RECOVERIES
@pytest.mark.parametrize("share", [0.2, 1.0])
def test_lost_answers_lose_and_double_nothing(folder: Path, recovery: Recovery, share: float) -> None:
    world = World(folder, recovery, shares=Shares(lost_answers=share), recipients=lines(100))
    result = world.process()
    assert world.journal() == dict.fromkeys(world.references(), 1)
    if recovery is Recovery.NEITHER:
        assert result.accepted + result.unconfirmed == 100
        assert result.unconfirmed > 0
    else:
        assert result == Dispatched(accepted=100)


def test_the_same_chunk_goes_again_under_the_same_reference(world: World) -> None:
    provider = Scripted(OutcomeUnknown("504"), OutcomeUnknown("time-out"))
    assert world.dispatch(world.ledger, provider).accepted == 10
    assert provider.posts[0] == provider.posts[1] == provider.posts[2] != provider.posts[3]


def test_pauses_grow_cover_a_time_out_and_respect_the_provider(world: World) -> None:
    unknown = OutcomeUnknown("busy", retry_after=timedelta(seconds=300))
    provider = Scripted(OutcomeUnknown("504"), OutcomeUnknown("504"), OutcomeUnknown("504"), unknown)
    assert world.dispatch(world.ledger, provider).accepted == 10
    first, second, third, asked_for = world.clock.slept
    assert TIMEOUT.total_seconds() <= first < second < third
    assert asked_for == 300


def test_who_surely_took_nothing_is_asked_again_sooner_than_who_may_yet_take_it(folder: Path) -> None:
    world = World(folder, timeout=timedelta(seconds=60))
    limits = Limits(3, world.timeout)
    world.dispatch(world.ledger, Scripted(NotTaken("429"), OutcomeUnknown("504"), limits=limits))
    sooner, later = world.clock.slept
    assert 5 <= sooner <= 8
    assert later >= 60


def test_a_provider_that_wants_to_be_left_alone_for_long_ends_its_channel(world: World) -> None:
    provider = Scripted(NotTaken("over the quota", timedelta(hours=2)))
    result = world.dispatch(world.ledger, provider)
    assert (result.accepted, result.unsent, world.clock.slept) == (0, 10, [])
    assert result.stopped["sms"] == "over the quota: it asks to be left alone for 120 minutes"
    assert world.dispatch(world.ledger, provider) == Dispatched(accepted=10)


def test_a_provider_out_of_reach_ends_its_channel_and_the_next_dispatch_finishes(world: World) -> None:
    provider = Scripted(*[OutcomeUnknown("504")] * TRIES)
    result = world.dispatch(world.ledger, provider)
    assert (result.accepted, result.left_open, result.unsent) == (0, 3, 7)
    assert "can't be reached" in result.stopped["sms"]
    assert world.dispatch(world.ledger, Scripted()) == Dispatched(accepted=10, taken_over=3)


def test_one_that_can_be_asked_is_posted_only_what_it_does_not_hold(world: World) -> None:
    provider = Scripted(OutcomeUnknown("time-out"), recovery=Recovery.CAN_BE_ASKED)
    provider.holds = {_reference(2), _reference(4)}
    assert world.dispatch(world.ledger, provider) == Dispatched(accepted=10)
    assert provider.asked == [[_reference(2), _reference(3), _reference(4)]]
    assert provider.posts[1][1] == [_reference(3)]


def test_one_that_cannot_be_asked_is_not_posted_to_again(world: World) -> None:
    provider = Scripted(OutcomeUnknown("dropped"), recovery=Recovery.NEITHER)
    assert world.dispatch(world.ledger, provider) == Dispatched(accepted=7, unconfirmed=3)
    assert world.states()[:3] == [(line, None, None, NOW) for line in (2, 3, 4)]
    assert world.dispatch(world.ledger, provider) == Dispatched()


def test_an_error_of_the_providers_own_leaves_the_chunk_to_the_next_dispatch(world: World) -> None:
    with pytest.raises(ZeroDivisionError):
        world.dispatch(world.ledger, Scripted(ZeroDivisionError()))
    assert world.dispatch(world.ledger, Scripted()) == Dispatched(accepted=10, taken_over=3)


# Answers for a part of a chunk


@RECOVERIES
def test_what_was_surely_not_taken_goes_again_whatever_the_provider_remembers(world: World, recovery: Recovery) -> None:
    provider = Scripted(NotTaken("over the quota"), NotTaken("over the quota"), recovery=recovery)
    assert world.dispatch(world.ledger, provider) == Dispatched(accepted=10)
    assert provider.posts[0] == provider.posts[1] == provider.posts[2] != provider.posts[3]
    assert provider.asked == []


@RECOVERIES
def test_what_is_never_taken_is_unsent_again(world: World, recovery: Recovery) -> None:
    provider = Scripted(*[NotTaken("nobody there")] * TRIES, recovery=recovery)
    result = world.dispatch(world.ledger, provider)
    assert (result.accepted, result.left_open, result.unsent) == (0, 0, 10)
    assert result.stopped["sms"].endswith("the last: nobody there")
    assert world.dispatch(world.ledger, Scripted(recovery=recovery)) == Dispatched(accepted=10)


def test_a_message_that_is_always_put_off_fails_and_keeps_nobody_waiting(world: World) -> None:
    class Full(Scripted):
        @override
        def send(self, chunk_reference: str, messages: Sequence[OutgoingMessage], now: datetime) -> Answer:
            if messages[0].reference == _reference(2):
                raise PutOff("its mailbox is full")
            return super().send(chunk_reference, messages, now)

    provider = Full(recovery=Recovery.NEITHER, limits=Limits(1, TIMEOUT))
    assert world.dispatch(world.ledger, provider) == Dispatched(accepted=9, refused=1)
    assert attempt_rows(world.ledger, "failure_kind", "failure_code", line=2) == [("refused", "put_off")]


@RECOVERIES
def test_a_call_that_was_not_taken_does_not_make_an_earlier_one_certain(world: World, recovery: Recovery) -> None:
    provider = Scripted(OutcomeUnknown("504"), *[NotTaken("over the quota")] * TRIES, recovery=recovery)
    result = world.dispatch(world.ledger, provider)
    if recovery is Recovery.NEITHER:
        assert (result.unconfirmed, result.unsent) == (3, 7)
    else:
        assert (result.left_open, result.unsent) == (3, 7)


@pytest.mark.parametrize("kind", [OutcomeUnknown, NotTaken])
def test_only_what_is_not_known_of_a_part_goes_again(world: World, kind: type[Unfinished]) -> None:
    part = kind("time-out", accepted=[_reference(2)], refused=[RefusedMessage(_reference(3), "ValidationError")])
    provider = Scripted(part, recovery=Recovery.CAN_BE_ASKED)
    assert world.dispatch(world.ledger, provider) == Dispatched(accepted=9, refused=1)
    assert provider.asked == ([[_reference(4)]] if kind is OutcomeUnknown else [])
    assert provider.posts[1] == (provider.posts[0][0], [_reference(4)])
    assert world.states()[:3] == [(2, NOW, None, None), (3, None, NOW, None), (4, NOW, None, None)]


def test_only_the_unknown_part_is_unconfirmed(world: World) -> None:
    part = OutcomeUnknown("dropped", accepted=[_reference(2)], refused=[RefusedMessage(_reference(3), "5.1.1")])
    provider = Scripted(part, recovery=Recovery.NEITHER)
    assert world.dispatch(world.ledger, provider) == Dispatched(accepted=8, refused=1, unconfirmed=1)
    assert world.states()[:3] == [(2, NOW, None, None), (3, None, NOW, None), (4, None, None, NOW)]


def test_a_provider_that_stops_on_its_way_keeps_what_it_took(world: World) -> None:
    provider = Scripted(ProviderStopped("daily limit", accepted=[_reference(2)]), recovery=Recovery.CAN_BE_ASKED)
    result = world.dispatch(world.ledger, provider)
    assert result == Dispatched(accepted=1, unsent=9, stopped={"sms": "daily limit"})
    assert world.dispatch(world.ledger, Scripted(recovery=Recovery.CAN_BE_ASKED)) == Dispatched(accepted=9)


def test_who_loses_the_lease_while_a_part_is_noted_notes_nothing(world: World) -> None:
    class TakenOver(Scripted):
        @override
        def send(self, chunk_reference: str, messages: Sequence[OutgoingMessage], now: datetime) -> Answer:
            world.clock.sleep(3600)
            world.dispatch(world.ledger, Scripted(recovery=Recovery.CAN_BE_ASKED))
            return super().send(chunk_reference, messages, now)

    part = OutcomeUnknown("late", refused=[RefusedMessage(_reference(2), "ValidationError")])
    assert world.dispatch(world.ledger, TakenOver(part, recovery=Recovery.CAN_BE_ASKED)) == Dispatched()
    assert [row[1] for row in world.states()] == [NOW] * 10


# Limits


def test_a_chunk_that_is_too_large_is_cut_in_two(world: World) -> None:
    class AtMost(Scripted):
        @override
        def send(self, chunk_reference: str, messages: Sequence[OutgoingMessage], now: datetime) -> Answer:
            if len(messages) > 2:
                raise ChunkTooLarge
            return super().send(chunk_reference, messages, now)

    provider = AtMost(limits=Limits(10, TIMEOUT))
    assert world.dispatch(world.ledger, provider) == Dispatched(accepted=10)
    assert [len(posted) for _, posted in provider.posts] == [2] * 5


@pytest.mark.parametrize(
    "refusal", [ChunkTooLarge(), ChunkRefused([]), ChunkRefused([RefusedMessage(_reference(3), "CM_INVALID_VALUE")])]
)
def test_a_refusal_after_a_lost_answer_gives_nothing_back_that_may_have_been_taken(
    world: World, refusal: Exception
) -> None:
    provider = Scripted(OutcomeUnknown("taken, and the answer lost"), refusal)
    assert world.dispatch(world.ledger, provider) == Dispatched(accepted=7, unconfirmed=3)


def test_what_is_cancelled_while_it_waits_for_its_first_call_is_not_sent(world: World) -> None:
    def sleep(seconds: float) -> None:
        world.clock.sleep(seconds)
        with world.ledger.write() as connection:
            connection.execute(sa.update(batches).values(cancelled_at=NOW))

    provider = Scripted(NotTaken("over the quota"))
    assert world.dispatch(world.ledger, provider, sleep=sleep).accepted == 0
    assert len(provider.posts) == 1


def test_a_message_that_is_too_large_by_itself_is_refused(world: World) -> None:
    provider = Scripted(ChunkTooLarge(), limits=Limits(1, TIMEOUT))
    assert world.dispatch(world.ledger, provider) == Dispatched(accepted=9, refused=1)
    assert attempt_rows(world.ledger, "failure_kind", "failure_code", line=2) == [("refused", "too_large")]


def test_who_calls_every_message_too_large_is_not_believed(world: World) -> None:
    provider = Scripted(*[ChunkTooLarge()] * 10, limits=Limits(1, TIMEOUT))
    result = world.dispatch(world.ledger, provider)
    assert (result.refused, result.unsent) == (2, 8)
    assert "calls every message too large" in result.stopped["sms"]


def test_a_chunk_has_as_many_messages_as_a_call_has_room_for(folder: Path) -> None:
    texts = ["é" * 100, "x" * 200, "x" * 1000, "x" * 10, "x" * 10]
    world = World(folder, recipients=[Recipient(line, text=text) for line, text in enumerate(texts, start=2)])
    room = 2 * (100 + 220 + len("+447700900002"))
    provider = Scripted(limits=Limits(10, TIMEOUT, bytes=room, envelope=100))
    assert world.dispatch(world.ledger, provider) == Dispatched(accepted=5)
    assert [len(posted) for _, posted in provider.posts] == [2, 1, 2]


@pytest.mark.parametrize("recovery", [Recovery.DEDUPLICATES, Recovery.CAN_BE_ASKED])
@pytest.mark.parametrize(("days", "told"), [(6, Dispatched(10, taken_over=3)), (8, Dispatched(7, 0, 3, taken_over=3))])
def test_what_a_provider_has_forgotten_is_left_to_a_person(
    world: World, recovery: Recovery, days: int, told: Dispatched
) -> None:
    limits = Limits(3, TIMEOUT, remembers=timedelta(days=7))
    world.dispatch(world.ledger, Scripted(*[OutcomeUnknown("504")] * TRIES, recovery=recovery, limits=limits))
    later = Scripted(recovery=recovery, limits=limits)
    assert world.dispatch(world.ledger, later, now=NOW + timedelta(days=days)) == told


@pytest.mark.parametrize(("one_by_one", "pauses"), [(False, [1, 1, 1]), (True, [3, 3, 3])])
def test_an_accounts_rate_is_kept(world: World, one_by_one: bool, pauses: list[float]) -> None:
    limits = Limits(3, TIMEOUT, per_minute=60, account="a", one_by_one=one_by_one)
    assert world.dispatch(world.ledger, Scripted(limits=limits)) == Dispatched(accepted=10)
    assert world.clock.slept == pauses


def test_a_rate_is_kept_however_long_it_takes(world: World) -> None:
    """In waits that a lease covers."""
    limits = Limits(10, TIMEOUT, per_minute=1, account="a", one_by_one=True)
    assert world.dispatch(world.ledger, Scripted(limits=replace(limits, messages=5))) == Dispatched(accepted=10)
    assert sum(world.clock.slept) == 5 * 60
    with world.ledger.write() as connection:
        connection.execute(
            sa.insert(paces).values(account="simulator:b", free_at=world.clock.wall + timedelta(minutes=25))
        )
        connection.execute(sa.update(attempts).values(chunk=None, begun_at=None, accepted_at=None))
    world.clock.slept.clear()
    assert world.dispatch(world.ledger, Scripted(limits=replace(limits, account="b"))) == Dispatched(accepted=10)
    assert world.clock.slept == [600, 600, 300]


def test_who_is_taken_over_while_waiting_for_the_rate_posts_nothing(world: World) -> None:
    limits = Limits(3, TIMEOUT, per_minute=1, account="a")
    sleeping, late = world.clock.sleep, Scripted(limits=limits)

    def sleep(seconds: float) -> None:
        sleeping(seconds + 3600)
        world.dispatch(world.ledger, Scripted())

    assert world.dispatch(world.ledger, late, sleep=sleep) == Dispatched(accepted=3)
    assert len(late.posts) == 1
    assert [row[1] for row in world.states()] == [NOW] * 10


@pytest.mark.parametrize("recovery", list(Recovery))
def test_who_dies_waiting_for_the_rate_leaves_nobody_in_doubt(world: World, recovery: Recovery) -> None:
    provider = Scripted(limits=Limits(3, TIMEOUT, per_minute=1, account="a"), recovery=recovery)

    def dies(_: float) -> None:
        raise Died

    with suppress(Died):
        world.dispatch(world.ledger, provider, sleep=dies)
    told = world.dispatch(world.ledger, next_one := Scripted(recovery=recovery))
    assert told == Dispatched(accepted=7, taken_over=3)
    assert next_one.asked == []
    assert sum(len(references) for _, references in next_one.posts) == 7


def test_who_takes_a_waiting_chunk_over_and_dies_leaves_a_doubt(folder: Path) -> None:
    world = World(folder, Recovery.NEITHER, chunk=10)
    limits = Limits(10, TIMEOUT, per_minute=1, account="a")
    with world.ledger.write() as connection:
        paces_.book(connection, "simulator:a", 1, 1, world.clock.wall)

    def dies(_: float) -> None:
        raise Died

    with suppress(Died):
        world.dispatch(world.ledger, Scripted(limits=limits, recovery=Recovery.NEITHER), sleep=dies)
    with suppress(Died):
        world.dispatch(world.ledger, world.simulator(_dies("after post", 0)))
    assert world.process() == Dispatched(unconfirmed=10, taken_over=10)
    assert set(world.journal().values()) == {1}


# Dying

MOMENTS = ("before commit", "after commit", "before post", "after post")


def _dies(moment: str, nth: int) -> Callable[[str], None]:
    left = nth

    def happens(told: str) -> None:
        nonlocal left
        left -= told == moment
        if told == moment and left < 0:
            raise Died

    return happens


@on_postgresql_slowly
@RECOVERIES
@pytest.mark.parametrize("second", MOMENTS)
@pytest.mark.parametrize("first", MOMENTS)
def test_dying_at_any_two_moments_loses_and_doubles_nothing(
    new_folder: Callable[[], Path], recovery: Recovery, first: str, second: str
) -> None:
    """Once in the first chunk or the next, then again while that is being finished."""
    for one, two in ((0, 0), (1, 1)):
        world = World(new_folder(), recovery, recipients=lines(7))
        for moment, nth in ((first, one), (second, two)):
            world.dying_process(_dies(moment, nth))
        result = world.process()
        assert result.left_open == result.unsent == 0
        _assert_nobody_lost_nobody_twice(world)
        world.ledger.close()


def _assert_nobody_lost_nobody_twice(world: World) -> None:
    journal = world.journal()
    assert max(journal.values(), default=0) <= 1
    for (line, accepted, failed, unconfirmed), reference in zip(world.states(), world.references(), strict=True):
        assert failed is None
        if world.recovery is Recovery.NEITHER:
            assert accepted or unconfirmed, line
        else:
            assert accepted, line
        assert reference in journal or unconfirmed


@on_postgresql_slowly
@settings(max_examples=12)
@given(
    recovery=st.sampled_from(list(Recovery)),
    deaths=st.lists(st.tuples(st.sampled_from(MOMENTS), st.integers(0, 6)), max_size=6),
    lost=st.sampled_from([0.0, 0.5]),
)
def test_whatever_dies_when(
    new_folder_of_module: Callable[[], Path], recovery: Recovery, deaths: list[tuple[str, int]], lost: float
) -> None:
    shares = Shares(lost_answers=lost)
    world = World(new_folder_of_module(), recovery, shares=shares, recipients=lines(20))
    for moment, nth in deaths:
        world.dying_process(_dies(moment, nth))
    world.process()
    _assert_nobody_lost_nobody_twice(world)
    world.ledger.close()


def test_a_chunk_left_open_is_waited_for_until_lease_and_time_out_are_over(world: World) -> None:
    began = world.clock.wall
    world.dying_process(_dies("after post", 0))
    assert world.process().taken_over == 3
    waited = world.clock.wall - began
    assert (LEASE + 1) * TIMEOUT <= waited < (LEASE + 3) * TIMEOUT


def test_new_chunks_go_on_while_an_open_one_is_waited_for(world: World) -> None:
    world.dying_process(_dies("after post", 0))
    seen: list[int] = []
    world.process(lambda moment: seen.append(len(world.clock.slept)) if moment == "after post" else None)
    assert seen[:3] == [0, 0, 0], "three chunks before the first sleep"
    assert seen[3] > 0


# Two at once, and sleepers


@RECOVERIES
@pytest.mark.parametrize("moment", ["before commit", "after commit", "after post"])
@pytest.mark.parametrize("nth", [0, 1, 2])
def test_another_that_works_between_any_two_steps_shares_the_work(
    folder: Path, recovery: Recovery, moment: str, nth: int
) -> None:
    world = World(folder, recovery, recipients=lines(12))
    left = nth

    def happens(told: str) -> None:
        nonlocal left
        left -= told == moment
        if told == moment and left == -1:
            _one_chunk_of_another(world, locked=moment == "before commit")

    world.process(happens)
    known = [line for line, accepted, _, _ in world.states() if accepted]
    in_doubt = [line for line, _, _, unconfirmed in world.states() if unconfirmed]
    assert world.journal() == dict.fromkeys(map(_reference, known), 1)
    assert len(known) + len(in_doubt) == 12
    other_died_with_one = moment != "before commit" and nth < 2
    assert len(in_doubt) == (3 if recovery is Recovery.NEITHER and other_died_with_one else 0)


def _one_chunk_of_another(world: World, *, locked: bool) -> None:
    """Another process carries one chunk, unless the ledger is locked and it would wait, and dies with the next in hand."""
    if locked:
        return

    def dies_after_one(moment: str) -> None:
        nonlocal commits
        commits += moment == "after commit"
        if commits == 2:
            raise Died

    commits = 0
    world.dying_process(dies_after_one)


def _sleeps_past_its_lease(world: World, moment: str, *, clock_put_back: bool = False) -> Callable[[str], None]:
    """At the first such moment the process sleeps, another takes its chunk over and finishes, and it wakes up."""
    woken = False

    def happens(told: str) -> None:
        nonlocal woken
        if told != moment or woken:
            return
        woken = True
        before = world.clock.wall
        world.clock.sleep(20 * TIMEOUT.total_seconds())
        world.process()
        if clock_put_back:
            world.clock.wall = before

    return happens


@RECOVERIES
@pytest.mark.parametrize("clock_put_back", [False, True])
def test_who_slept_past_the_lease_between_commit_and_post_does_not_post(
    folder: Path, recovery: Recovery, clock_put_back: bool
) -> None:
    world = World(folder, recovery)
    posts: list[str] = []
    sleeper = _sleeps_past_its_lease(world, "after commit", clock_put_back=clock_put_back)

    def happens(moment: str) -> None:
        sleeper(moment)
        if moment == "before post":
            posts.append(moment)

    assert world.process(happens) == Dispatched()
    assert posts == []
    _assert_nobody_lost_nobody_twice(world)


def test_who_slept_and_was_not_taken_over_does_not_post_either_until_it_takes_over_itself(world: World) -> None:
    fell_asleep = world.clock.wall

    def happens(moment: str) -> None:
        if moment == "after commit" and world.clock.wall == fell_asleep:
            world.clock.sleep((LEASE - 0.5) * TIMEOUT.total_seconds())
        if moment == "before post":
            posted.append(world.clock.wall)

    posted: list[datetime] = []
    assert world.process(happens).accepted == 10
    assert len(posted) == 4
    _assert_nobody_lost_nobody_twice(world)


@pytest.mark.parametrize("recovery", [Recovery.DEDUPLICATES, Recovery.CAN_BE_ASKED])
def test_who_slept_after_the_post_records_nothing_over_the_others_record(folder: Path, recovery: Recovery) -> None:
    world = World(folder, recovery)
    world.process(_sleeps_past_its_lease(world, "after post"))
    _assert_nobody_lost_nobody_twice(world)


def test_who_was_taken_over_while_unsure_leaves_the_chunk_to_the_other(world: World) -> None:
    provider = Scripted(OutcomeUnknown("504"))
    sleep = world.clock.sleep

    def oversleep(seconds: float) -> None:
        sleep(seconds + 20 * TIMEOUT.total_seconds())
        world.process()

    assert world.dispatch(world.ledger, provider, sleep=oversleep) == Dispatched()
    assert len(provider.posts) == 1


def test_who_slept_with_a_message_that_was_never_posted_gives_it_back(folder: Path) -> None:
    """Nobody has to look after it, though its provider can't be asked."""
    world = World(folder, Recovery.NEITHER)
    slept = False

    def happens(told: str) -> None:
        nonlocal slept
        if told == "after commit" and not slept:
            slept = True
            world.clock.sleep(20 * TIMEOUT.total_seconds())

    assert world.process(happens) == Dispatched(accepted=10)


def test_a_chunk_of_another_provider_is_not_taken_over(world: World) -> None:
    """The plan was changed while this dispatch ran: of what one provider may have taken, another knows nothing."""
    replanned = False

    def happens(moment: str) -> None:
        nonlocal replanned
        if moment == "after post" and not replanned:
            replanned = True
            _left_by_another_provider(world)

    assert world.process(happens) == Dispatched(accepted=7, left_open=3)
    assert len(world.journal()) == 7


def _left_by_another_provider(world: World) -> None:
    columns = {"reference": "another's", "batch": BATCH, "step": "primary", "channel": "sms", "provider": "another"}
    held = {
        "messages": 3,
        "owner": "x",
        "fence": 1,
        "lease_until": NOW - timedelta(days=1),
        "claimed_at": NOW - timedelta(days=1),
    }
    with world.ledger.write() as connection:
        connection.execute(sa.insert(chunks_table).values(**columns, **held))
        last = attempts.c.line > 8
        connection.execute(sa.update(attempts).where(last).values(chunk="another's", begun_at=NOW, provider="another"))


def test_what_is_known_outlives_a_ledger_that_was_out_of_reach(world: World) -> None:
    """The answer of a provider that can't be asked is recorded when the ledger is back."""
    world.recovery = Recovery.NEITHER
    failures = iter([Refused("the ledger can't be reached")] * 2)

    class Ailing(Ledger):
        @override
        @contextmanager
        def write(self) -> Generator[sa.Connection]:
            with super().write() as connection:
                yield connection
                if posted and (failure := next(failures, None)):
                    raise failure

    posted: list[str] = []
    provider = world.simulator(lambda moment: posted.append(moment) if moment == "after post" else None)
    assert world.dispatch(Ailing(world.ledger._engine), provider) == Dispatched(accepted=10)
    assert world.clock.slept == [1, 1]


def test_a_chunk_that_was_claimed_with_an_answer_is_given_back_when_what_follows_fails(folder: Path) -> None:
    world = World(folder, Recovery.NEITHER)

    def fails(_: int) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        world.process(after_chunk=fails)
    assert world.process() == Dispatched(accepted=7)
    assert sum(world.journal().values()) == 10


def test_a_lease_far_ahead_after_the_clock_was_put_back_is_watched_and_taken_over(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_worker, "LONGEST_PAUSE", timedelta(seconds=20))
    world.dying_process(_dies("after commit", 0))
    world.clock.wall -= timedelta(hours=5)
    began = world.clock.steady
    assert world.process().taken_over == 3
    assert (LEASE + 1) * TIMEOUT.total_seconds() < world.clock.steady - began < 30


def test_a_dispatch_returns_when_another_has_finished_what_it_waits_for(world: World) -> None:
    held = _claim(world)

    def sleep(seconds: float) -> None:
        world.clock.sleep(seconds)
        with world.ledger.write() as connection:
            chunks.settle(connection, held, [], NOW)

    assert world.process(sleep=sleep) == Dispatched(accepted=7)


def _claim(world: World) -> chunks.Chunk:
    """Another, living process holds a chunk."""
    with world.ledger.write() as connection:
        held = chunks.claim(
            connection,
            BATCH,
            "primary",
            "sms",
            provider="simulator",
            limit=3,
            number=1,
            owner="another",
            lease_until=world.clock.wall + LEASE * TIMEOUT,
            now=NOW,
        )
    assert held is not None
    return held.chunk


def test_a_fence_lets_only_the_last_holder_write(world: World) -> None:
    old = _claim(world)
    with world.ledger.write() as connection:
        new = chunks.take_over(connection, old, "another", old.lease_until + TIMEOUT)
        assert new is not None
        assert chunks.take_over(connection, old, "a third", old.lease_until + TIMEOUT) is None
        assert not chunks.settle(connection, old, [(_reference(2), "X")], NOW)
        assert chunks.give_back(connection, old, [], NOW) is None
        assert not chunks.leave_unconfirmed(connection, old, NOW)
        assert not chunks.record_part(connection, old, [_reference(2)], [], NOW)
        assert chunks.renew(connection, old, old.lease_until) is None
        assert chunks.standing(connection, old) is None
        assert chunks.settle(connection, new, [], NOW)
        assert not chunks.settle(connection, replace(new, fence=2), [], NOW)
    assert [accepted for _, accepted, _, _ in world.states()] == [NOW] * 3 + [None] * 7


# Plans made in between


def test_a_plan_made_between_two_chunks_moves_only_who_is_not_begun(world: World) -> None:
    world.dying_process(_dies("after post", 1))
    plan = [Recipient(line, "email") for line in (*range(2, 10), 40)]
    written = queue(world.ledger, plan, plan=LATER_PLAN)
    assert written == outbox.OutboxWritten(added=1, moved=2, removed=2, unchanged=6)
    assert world.process().left_open == 0
    assert world.journal() == {_reference(line): 1 for line in (*range(2, 10), 40)}
    assert [row[0] for row in attempt_rows(world.ledger, "channel")] == ["sms"] * 6 + ["email"] * 3


def test_the_same_batch_queued_again_sends_nothing_again(world: World) -> None:
    world.process()
    queue(world.ledger, lines(10), plan=LATER_PLAN)
    assert world.process() == Dispatched()
    assert set(world.journal().values()) == {1}


def test_the_next_chunk_is_claimed_with_the_record_of_the_last(world: World) -> None:
    commits: list[str] = []
    world.process(lambda moment: commits.append(moment) if moment == "before commit" else None)
    claims, records, last_look = 4, 4, 1
    assert len(commits) <= 1 + records + last_look < claims + records + last_look
