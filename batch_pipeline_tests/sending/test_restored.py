"""A ledger that was restored from a copy sends nothing twice, and loses nothing."""

import random
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from batch_pipeline.errors import Refused
from batch_pipeline.ledger import controls
from batch_pipeline.providers.protocol import Recovery
from batch_pipeline.sending.dispatcher import Dispatched
from batch_pipeline_tests.ledger.given import NOW, attempt_rows, lines, mobile
from batch_pipeline_tests.ledgers import on_postgresql_slowly
from batch_pipeline_tests.sending.copies import JournalledWorld, Unruly, copy_of, restore
from batch_pipeline_tests.sending.worlds import Died, Happens

SURE = pytest.mark.parametrize("recovery", [Recovery.DEDUPLICATES, Recovery.CAN_BE_ASKED])


def stop_after(posts: int) -> Happens:
    """Dies before the call after so many."""
    left = iter(range(posts))

    def happens(moment: str) -> None:
        if moment == "before post" and next(left, None) is None:
            raise Died

    return happens


@SURE
def test_what_a_restored_ledger_has_forgotten_is_put_back_and_goes_once(folder: Path, recovery: Recovery) -> None:
    world = JournalledWorld(folder, recovery=recovery)
    world.dying_process(stop_after(1))
    assert world.look() is None
    copy = copy_of(world.ledger)
    assert world.process().accepted == 7
    restore(world.ledger, copy)

    hold = world.look()
    assert hold is not None
    assert "restored from a copy" in hold.because
    assert "flu-2026-10" in hold.because
    assert world.process() == Dispatched(left_open=3, unsent=4)
    with pytest.raises(Refused, match="batch-pipeline reconcile"):
        world.resume()

    done = world.put_back()
    assert (done.chunks, done.messages, done.released) == (2, 4, True)
    assert world.process() == Dispatched(left_open=7)  # still paused
    world.resume()
    assert world.process() == Dispatched(accepted=7, taken_over=7)
    assert world.journal() == dict.fromkeys(world.references(), 1)
    assert world.look() is None
    assert world.put_back().chunks == 0


def test_of_a_provider_that_can_do_neither_what_was_forgotten_is_for_a_person(folder: Path) -> None:
    world = JournalledWorld(folder, recovery=Recovery.NEITHER)
    copy = copy_of(world.ledger)
    world.dying_process(stop_after(2))
    restore(world.ledger, copy)
    assert world.look() is not None
    assert world.reconcile().messages == 9
    assert world.process() == Dispatched(accepted=1, unconfirmed=9, taken_over=9)
    assert set(world.journal().values()) == {1}


def test_a_chunk_that_was_given_back_is_not_put_back_and_its_messages_go_in_their_last_one(folder: Path) -> None:
    world = JournalledWorld(folder)
    copy = copy_of(world.ledger)
    refuser = Unruly(world.folder / "simulator.sqlite", chunk=4)
    refuser.calm, refuser.refuses = True, frozenset({mobile(3)})
    assert world.process_with(refuser, lambda _: None) == Dispatched(accepted=9, refused=1)
    restore(world.ledger, copy)
    assert world.look() is not None
    done = world.reconcile()
    assert (done.messages, done.apart, done.kept) == (9, [], [])
    # who was refused is refused again, and nobody else hears a second time
    assert world.process_with(refuser, lambda _: None) == Dispatched(accepted=9, refused=1, taken_over=9)
    assert sorted(world.journal().values()) == [1] * 9


def _assert_none_twice_none_lost(world: JournalledWorld, *, sure: bool) -> None:
    journal = world.journal()
    assert set(journal.values()) <= {1}
    columns = ("reference", "accepted_at", "failed_at", "unconfirmed_at")
    for reference, accepted, failed, unconfirmed in attempt_rows(world.ledger, *columns):
        assert accepted or failed or unconfirmed, "lost"
        assert not accepted or journal[reference] == 1
        assert not failed or journal[reference] == 0
        assert not sure or not unconfirmed
    assert len(journal) == sum(1 for reference in world.references() if journal[reference])


ROUNDS = [*range(6), *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(6, 120))]


@on_postgresql_slowly
@pytest.mark.parametrize("seed", ROUNDS)
def test_claims_posts_deaths_copies_and_restores_in_any_order(new_folder: Callable[[], Path], seed: int) -> None:
    chance = random.Random(seed)
    recovery = list(Recovery)[seed % 3]
    refuses = frozenset({mobile(5)} if seed % 2 else set())
    world = JournalledWorld(new_folder(), recovery=recovery, recipients=lines(chance.choice([4, 12, 30])))
    copies, chunk = [copy_of(world.ledger)], chance.choice([1, 3, 7])

    def provider() -> Unruly:
        made = Unruly(world.folder / "simulator.sqlite", chunk=chunk, recovery=recovery)
        made.chance, made.refuses = chance, refuses
        return made

    def happens(_: str) -> None:
        drawn = chance.random()
        if drawn < 0.04:
            raise Died
        if drawn < 0.10:
            copies.append(copy_of(world.ledger))

    for _ in range(chance.randrange(2, 6)):
        for _ in range(chance.randrange(1, 4)):
            with suppress(Died):
                world.process_with(provider(), happens)
            if chance.random() < 0.3:
                assert world.look() is None
        if chance.random() < 0.7:
            restore(world.ledger, chance.choice(copies))
            if world.look() is not None:
                while chance.random() < 0.3:
                    world.put_back()
                world.reconcile()
            else:
                with world.ledger.read() as connection:
                    assert controls.general(connection) is None

    for _ in range(4):
        last = provider()
        last.calm = True
        world.process_with(last, lambda _: None)
    _assert_none_twice_none_lost(world, sure=recovery is not Recovery.NEITHER and not refuses)
