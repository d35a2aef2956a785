"""What a person decides while a dispatch is under way, and the dispatch's own circuit breaker."""

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

from batch_pipeline.ledger import controls, unconfirmed
from batch_pipeline.ledger.breaker import Breaker
from batch_pipeline.providers.protocol import (
    Answer,
    ChunkRefused,
    OutcomeUnknown,
    ProviderStopped,
    Recovery,
    RefusedMessage,
)
from batch_pipeline.rules.circuit_breaker import BreakerRule
from batch_pipeline.sending import fallbacks
from batch_pipeline.sending.dispatcher import Dispatched
from batch_pipeline_tests.ledger.given import BATCH, NOW, attempt_rows, lines
from batch_pipeline_tests.sending.test_dispatcher import Scripted
from batch_pipeline_tests.sending.worlds import TIMEOUT, Died, World

DAY = timedelta(hours=24)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def _pause(world: World, *, of_all: bool = False) -> None:
    with world.ledger.write() as connection:
        if of_all:
            controls.pause_all(connection, "Dr Grey", None, NOW)
        else:
            controls.pause(connection, BATCH, "Dr Grey", None, NOW)


def _resume(world: World) -> None:
    with world.ledger.write() as connection:
        controls.resume_all(connection, "Dr Grey", NOW)
        controls.resume(connection, BATCH, "Dr Grey", NOW)


def _cancel(world: World, *, with_fallbacks: bool = False) -> controls.Cancelled:
    with world.ledger.write() as connection:
        return controls.cancel(connection, BATCH, "Dr Grey", NOW, with_fallbacks=with_fallbacks)


def _once(moment: str, do: Callable[[], object]) -> Callable[[str], None]:
    """Does it at the first such moment."""
    done = False

    def happens(told: str) -> None:
        nonlocal done
        if told == moment and not done:
            done = True
            do()

    return happens


@pytest.mark.parametrize("of_all", [False, True])
def test_a_pause_during_a_post_lets_exactly_that_chunk_go(world: World, of_all: bool) -> None:
    assert world.process(_once("before post", lambda: _pause(world, of_all=of_all))) == Dispatched(accepted=3, unsent=7)
    assert sum(world.journal().values()) == 3
    assert world.process() == Dispatched(unsent=7)
    _resume(world)
    assert world.process() == Dispatched(accepted=7)
    assert world.journal() == dict.fromkeys(world.references(), 1)


def test_a_pause_between_claim_and_post_lets_nothing_go_and_leaves_nothing_in_doubt(tmp_path: Path) -> None:
    world = World(tmp_path, Recovery.NEITHER)
    assert world.process(_once("after commit", lambda: _pause(world))) == Dispatched(unsent=10)
    assert world.journal() == {}
    _resume(world)
    assert world.process() == Dispatched(accepted=10)


@pytest.mark.parametrize("of_all", [False, True])
def test_a_chunk_whose_answer_was_lost_is_not_tried_again_during_a_pause(world: World, of_all: bool) -> None:
    provider = Scripted(OutcomeUnknown("504"))
    sleep = world.clock.sleep

    def pause_meanwhile(seconds: float) -> None:
        sleep(seconds)
        _pause(world, of_all=of_all)

    result = world.dispatch(world.ledger, provider, sleep=pause_meanwhile)
    assert result == Dispatched(left_open=3, unsent=7)
    assert len(provider.posts) == 1
    assert world.dispatch(world.ledger, provider) == Dispatched(left_open=3, unsent=7)
    _resume(world)
    assert world.dispatch(world.ledger, provider) == Dispatched(accepted=10, taken_over=3)
    assert provider.posts.count(provider.posts[0]) == 2


def test_what_another_left_open_is_not_posted_during_a_pause(world: World) -> None:
    def dies(moment: str) -> None:
        if moment == "after post":
            raise Died

    world.dying_process(dies)
    _pause(world)
    world.clock.sleep(20 * TIMEOUT.total_seconds())
    assert world.process() == Dispatched(left_open=3, unsent=7)
    _resume(world)
    assert world.process() == Dispatched(accepted=10, taken_over=3)
    assert set(world.journal().values()) == {1}


def test_queued_fallbacks_wait_during_a_pause(tmp_path: Path) -> None:
    world = World(tmp_path, recipients=lines(5, "nhs_app"))
    world.process()
    fallbacks.sweep(world.ledger, BATCH, NOW + DAY, fallbacks.FallbackFacts("simulator"))
    _pause(world)
    assert world.process(step="fallback", now=NOW + DAY) == Dispatched(unsent=5)
    _resume(world)
    assert world.process(step="fallback", now=NOW + DAY) == Dispatched(accepted=5)


# Cancelling


def test_a_cancel_during_a_post_lets_exactly_that_chunk_go(world: World) -> None:
    assert world.process(_once("before post", lambda: _cancel(world))) == Dispatched(accepted=3)
    assert [row[0] for row in attempt_rows(world.ledger, "cancelled_at")] == [None] * 3 + [NOW] * 7
    assert world.process() == Dispatched()
    assert sum(world.journal().values()) == 3


@pytest.mark.parametrize("recovery", list(Recovery))
@pytest.mark.parametrize("moment", ["after commit", "after post"])
def test_nothing_is_posted_after_a_cancel_not_even_what_may_have_been_before(
    tmp_path: Path, recovery: Recovery, moment: str
) -> None:
    """Who can be asked tells what became of a dead process's chunk; else its receipts will, or a person."""
    world = World(tmp_path, recovery)

    def dies(told: str) -> None:
        if told == moment:
            raise Died

    world.dying_process(dies)
    sent = 3 if moment == "after post" else 0
    assert len(world.journal()) == sent
    assert _cancel(world).messages == 7
    result = world.process()
    if recovery is Recovery.CAN_BE_ASKED:
        assert (result.accepted, result.unconfirmed) == (sent, 0)
        assert len(attempt_rows(world.ledger, cancelled_at=NOW)) == 10 - sent
    else:
        assert (result.accepted, result.unconfirmed) == (0, 3)
    assert world.journal() == dict.fromkeys(list(world.journal()), 1)
    assert len(world.journal()) == sent


@pytest.mark.parametrize("fault", [ChunkRefused([RefusedMessage(f"{BATCH}:3:primary", "X")]), ProviderStopped("no")])
def test_what_is_given_back_of_a_cancelled_batch_is_cancelled(world: World, fault: Exception) -> None:
    class CancelledMeanwhile(Scripted):
        def send(self, *given: object) -> Answer:  # pyright: ignore[reportIncompatibleMethodOverride]
            _cancel(world)
            return super().send(*given)  # pyright: ignore[reportArgumentType]

    world.dispatch(world.ledger, CancelledMeanwhile(fault))
    ended = attempt_rows(world.ledger, "cancelled_at", "failed_at")
    assert all(cancelled or failed for cancelled, failed in ended)
    assert sum(failed is not None for _, failed in ended) == isinstance(fault, ChunkRefused)


def test_cancelled_with_its_fallbacks_during_a_post_exactly_that_chunk_of_them_goes(tmp_path: Path) -> None:
    world = World(tmp_path, recipients=lines(5, "nhs_app"))
    world.process()
    fallbacks.sweep(world.ledger, BATCH, NOW + DAY, fallbacks.FallbackFacts("simulator"))
    cancel = _once("before post", lambda: _cancel(world, with_fallbacks=True))
    assert world.process(cancel, step="fallback", now=NOW + DAY) == Dispatched(accepted=3)
    because = [row[0] for row in attempt_rows(world.ledger, "no_fallback_because", step="primary")]
    assert because == [None] * 3 + ["cancelled"] * 2
    assert sum(reference.endswith("fallback") for reference in world.journal()) == 3


# Unconfirmed


def test_what_a_person_found_not_to_be_sent_goes_once_under_a_new_reference(world: World) -> None:
    provider = Scripted(OutcomeUnknown("dropped"), recovery=Recovery.NEITHER)
    assert world.dispatch(world.ledger, provider).unconfirmed == 3
    with world.ledger.write() as connection:
        unconfirmed.resolve(connection, BATCH, [2, 4], "Dr Grey", NOW, sent=False)
        unconfirmed.resolve(connection, BATCH, [3], "Dr Grey", NOW, sent=True)
    before = {reference for reference, _ in provider.posts}
    assert world.dispatch(world.ledger, provider) == Dispatched(accepted=2)
    reference, messages = provider.posts[-1]
    assert messages == [f"{BATCH}:{line}:primary" for line in (2, 4)]
    assert reference not in before


def test_who_slept_while_a_person_decided_posts_nothing(tmp_path: Path) -> None:
    """Its chunk was taken over, left unconfirmed, and found not to be sent; it wakes up right before its post."""
    world = World(tmp_path, Recovery.NEITHER)

    def another_and_a_person() -> None:
        world.clock.sleep(20 * TIMEOUT.total_seconds())
        assert world.process().unconfirmed == 3
        with world.ledger.write() as connection:
            unconfirmed.resolve(connection, BATCH, [], "Dr Grey", NOW, sent=False)

    assert world.process(_once("after commit", another_and_a_person)) == Dispatched(accepted=3)
    assert world.journal() == dict.fromkeys(world.references(), 1)


# The circuit breaker


def test_the_breaker_ends_a_dispatch_within_one_chunk(world: World) -> None:
    refused = [RefusedMessage(f"{BATCH}:{line}:primary", "X") for line in (2, 5, 6)]
    provider = Scripted(Answer(refused[:1]), Answer(refused[1:]))
    breaker = Breaker(world.ledger, BATCH, BreakerRule(share=0.4, least=5))
    result = world.dispatch(
        world.ledger,
        provider,
        after_chunk=lambda refused: breaker.after_chunk(refused, NOW),
    )
    assert result == Dispatched(accepted=3, refused=3, unsent=4)
    assert len(provider.posts) == 2
    with world.ledger.read() as connection:
        pause = controls.standing(connection, BATCH)
    assert pause is not None
    assert pause.because == "3 of 6 messages by SMS failed, more than 40 %"
