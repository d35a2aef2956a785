"""A ledger that was restored from a copy sends nothing twice, and loses nothing."""

import os
import random
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import timedelta
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import pytest

from batch_pipeline.errors import Refused
from batch_pipeline.ledger import chunks, controls, restored, unconfirmed
from batch_pipeline.ledger.chunks import Chunk
from batch_pipeline.ledger.journal import Entry, Journal
from batch_pipeline.providers.protocol import ProviderStopped, Recovery
from batch_pipeline.sending import recording
from batch_pipeline.sending.dispatcher import Dispatched
from batch_pipeline_tests.ledger.given import BATCH, NOW, attempt_rows, lines, mobile, set_attempts
from batch_pipeline_tests.ledgers import on_postgresql_slowly
from batch_pipeline_tests.processes import CONTEXT
from batch_pipeline_tests.sending.copies import (
    KILLED,
    Copy,
    JournalledWorld,
    Unruly,
    copy_of,
    dispatch_with_journal,
    restore,
)
from batch_pipeline_tests.sending.worlds import Died, Happens, WatchedSimulator

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


def test_a_message_that_a_person_found_unsent_is_put_back_where_it_went_then(folder: Path) -> None:
    """The copy was taken before its first chunk, or while that was open, or unconfirmed."""
    world = JournalledWorld(folder, recovery=Recovery.NEITHER, chunk=1, recipients=lines(1))
    copies = [copy_of(world.ledger)]
    world.dying_process(stop_after(0))
    copies.append(copy_of(world.ledger))
    assert world.process() == Dispatched(unconfirmed=1, taken_over=1)
    copies.append(copy_of(world.ledger))
    journal = world.journal_of_claims()
    signed = restored.writer(world.ledger, journal)
    with world.ledger.write() as connection:
        found = unconfirmed.resolve(connection, BATCH, [], "Dr Grey", NOW, sent=False)
        recording.record_not_sent(connection, journal, signed, found)
    journal.close()
    assert world.process() == Dispatched(accepted=1)
    for copy in copies:
        restore(world.ledger, copy)
        assert world.look() is not None
        done = world.reconcile()
        assert (done.messages, done.kept) == (1, [])
        assert world.process().unconfirmed == 1
        assert set(world.journal().values()) == {1}
        ((chunk,),) = attempt_rows(world.ledger, "chunk")
        assert chunk == next(iter(world.simulator().journal())).chunk


def test_what_a_person_found_unsent_is_for_a_person_again_where_it_went_nowhere_since(folder: Path) -> None:
    """The lost ledger may have learnt from a receipt that it was sent after all."""
    world = JournalledWorld(folder, recovery=Recovery.NEITHER, chunk=1, recipients=lines(1))
    copy = copy_of(world.ledger)
    world.dying_process(die_at("after post"))
    assert world.process() == Dispatched(unconfirmed=1, taken_over=1)
    journal = world.journal_of_claims()
    signed = restored.writer(world.ledger, journal)
    with world.ledger.write() as connection:
        found = unconfirmed.resolve(connection, BATCH, [], "Dr Grey", NOW, sent=False)
        recording.record_not_sent(connection, journal, signed, found)
    journal.close()
    restore(world.ledger, copy)
    assert world.look() is not None
    assert world.reconcile().messages == 1
    assert world.process() == Dispatched(unconfirmed=1, taken_over=1)
    assert set(world.journal().values()) == {1}


def die_at(fatal: str) -> Happens:
    """Dies at the first moment of that name."""

    def happens(moment: str) -> None:
        if moment == fatal:
            raise Died

    return happens


@pytest.mark.parametrize("recovery", list(Recovery))
def test_a_ledger_that_goes_back_under_a_dispatch_ends_it(folder: Path, recovery: Recovery) -> None:
    """As when a server fails over to one that lags behind, and the dispatch goes on with that."""
    world = JournalledWorld(folder, recovery=recovery)
    copy = copy_of(world.ledger)
    goes_back = iter([True])

    def happens(moment: str) -> None:
        if moment == "after post" and next(goes_back, False):
            restore(world.ledger, copy)

    done = world.process(happens)
    assert sum(world.journal().values()) == 3
    assert done.unsent == 10
    assert "was put back while this ran" in done.stopped["sms"]
    assert world.look() is not None
    assert world.reconcile().messages == 3
    world.process()
    assert set(world.journal().values()) == {1}
    assert len(world.journal()) == 10


def test_a_ledger_that_has_lost_another_dispatchs_chunk_ends_it_too(folder: Path) -> None:
    world = JournalledWorld(folder)
    mine, others = world.journal_of_claims(), world.journal_of_claims()
    recorder, other = recording.Recorder(world.ledger, mine), recording.Recorder(world.ledger, others)
    chunk = claimed(world)
    other.before_post(replace(claimed(world), reference="lost"), None)
    for _ in range(2):
        with pytest.raises(
            ProviderStopped, match="doesn't know chunk lost any more, so it was put back while this ran"
        ):
            recorder.before_post(chunk, None)
    with pytest.raises(ProviderStopped):
        other.before_post(claimed(world), None)
    for journal in (mine, others):
        journal.close()
    assert [line.entry.chunk for name in mine.files() for line in mine.read(name, 0) if line.entry] == ["lost"]


def claimed(world: JournalledWorld) -> Chunk:
    with world.ledger.write() as connection:
        claim = chunks.claim(
            connection,
            BATCH,
            "primary",
            "sms",
            provider="simulator",
            limit=3,
            number=1,
            owner="a test",
            lease_until=NOW,
            now=NOW,
        )
    assert claim is not None
    return claim.chunk


def test_what_a_receipt_told_of_is_not_noted_as_returned(folder: Path) -> None:
    world = JournalledWorld(folder)
    chunk = claimed(world)
    journal = world.journal_of_claims()
    recorder = recording.Recorder(world.ledger, journal)
    recorder.before_post(chunk, None)
    for line, column in enumerate(("delivered_at", "read_at"), start=2):
        set_attempts(world.ledger, {column: NOW}, line=line)
    recorder.before_return(chunk)
    journal.close()
    noted = [line.entry for name in journal.files() for line in journal.read(name, 0) if line.entry]
    assert [(entry.kind, [message.line for message in entry.messages]) for entry in noted] == [
        ("posted", [2, 3, 4]),
        ("returned", [4]),
    ]


@pytest.mark.parametrize("recovery", list(Recovery))
def test_a_journal_that_cant_be_written_stops_the_channel_and_gives_back_what_wasnt_posted(
    folder: Path, recovery: Recovery
) -> None:
    world = JournalledWorld(folder, recovery=recovery)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Journal, "append", _full)
        done = world.process()
    assert done.unsent == 10
    assert "the claims journal" in done.stopped["sms"]
    assert "can't be written (No space left on device)" in done.stopped["sms"]
    assert world.journal() == {}
    assert world.process() == Dispatched(accepted=10)


def _full(*_: object) -> None:
    raise OSError(28, "No space left on device")


def test_a_line_that_is_there_though_it_could_not_be_written_is_taken_back(folder: Path) -> None:
    """And by a clock that was put back since: the later of two lines would count."""
    world = JournalledWorld(folder, recipients=lines(1))
    copy = copy_of(world.ledger)
    with pytest.MonkeyPatch.context() as patch:
        fsync, fails = os.fsync, iter([True])
        patch.setattr(os, "fsync", lambda descriptor: _full() if next(fails, False) else fsync(descriptor))
        patch.setattr("batch_pipeline.ledger.journal._sync_folder", lambda _: None)
        assert "can't be written" in world.process().stopped["sms"]
    world.clock.wall -= timedelta(hours=2)
    assert world.process() == Dispatched(accepted=1)
    restore(world.ledger, copy)
    assert world.look() is not None
    world.reconcile()
    ((chunk,),) = attempt_rows(world.ledger, "chunk")
    assert chunk == next(iter(world.simulator().journal())).chunk


def test_one_that_was_posted_and_cant_be_noted_as_returned_stays_open(folder: Path) -> None:
    world = JournalledWorld(folder)
    refuser = Unruly(world.folder / "simulator.sqlite", chunk=4)
    refuser.calm, refuser.refuses = True, frozenset({mobile(3)})
    append = Journal.append

    def fails(journal: Journal, entry: Entry) -> None:
        if entry.kind == "returned":
            _full()
        append(journal, entry)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Journal, "append", fails)
        with pytest.raises(Refused, match="can't be written"):
            world.process_with(refuser, lambda _: None)
    with world.ledger.read() as connection:
        assert [chunk.messages for chunk in chunks.open_chunks(connection, BATCH, "primary")] == [4]


@pytest.mark.parametrize("recovery", list(Recovery))
def test_a_copy_of_a_moment_when_a_chunk_waited_does_not_know_what_became_of_it(
    folder: Path, recovery: Recovery
) -> None:
    world = JournalledWorld(folder, recovery=recovery, chunk=5)
    copies = list[Copy]()
    world.dispatch(world.ledger, _slow(world), sleep=lambda _: copies.append(copy_of(world.ledger)))
    assert set(world.journal().values()) == {1}
    restore(world.ledger, copies[0])
    assert world.look() is None
    sure = recovery is not Recovery.NEITHER
    assert world.process() == Dispatched(accepted=5 * sure, unconfirmed=5 * (not sure), taken_over=5)
    assert world.journal() == dict.fromkeys(world.references(), 1)


@pytest.mark.parametrize("recovery", list(Recovery))
def test_a_dispatch_under_which_the_ledger_goes_back_to_such_a_moment_posts_nothing_again(
    folder: Path, recovery: Recovery
) -> None:
    world = JournalledWorld(folder, recovery=recovery, chunk=5)
    copies = list[Copy]()

    def sleep(seconds: float) -> None:
        copies.append(copy_of(world.ledger))
        world.clock.sleep(seconds + 0.001)

    def happens(moment: str) -> None:
        if moment == "after post" and len(copies) == 1:
            restore(world.ledger, copies[0])

    provider = _slow(world)
    provider.happens = happens
    world.dispatch(world.ledger, provider, sleep=sleep)
    assert world.journal() == dict.fromkeys(world.references(), 1)


def _slow(world: JournalledWorld) -> WatchedSimulator:
    """One call a minute."""
    made = world.simulator()
    made._limits = replace(made.limits, per_minute=1, account="a")
    return made


def test_a_chunk_that_is_posted_again_is_noted_once_a_holder(folder: Path) -> None:
    world = JournalledWorld(folder, chunk=10)
    world.process_with(_losing(world, 0.05, 0.4, 1.0), lambda _: None)
    journal = world.journal_of_claims()
    noted = [line.entry for name in journal.files() for line in journal.read(name, 0) if line.entry]
    assert [(entry.kind, entry.fence, len(entry.messages)) for entry in noted] == [("posted", 1, 10)]


def _losing(world: JournalledWorld, *drawn: float) -> Unruly:
    made = Unruly(world.folder / "simulator.sqlite", chunk=10, recovery=world.recovery)
    made.chance = random.Random()
    answers = iter(drawn)
    made.chance.random = lambda: next(answers)
    return made


def _assert_none_twice_none_lost(world: JournalledWorld, *, sure: bool) -> None:
    journal = world.journal()
    assert set(journal.values()) <= {1}
    columns = ("reference", "accepted_at", "failed_at", "unconfirmed_at")
    for reference, accepted, failed, unknown in attempt_rows(world.ledger, *columns):
        assert accepted or failed or unknown, "lost"
        assert not accepted or journal[reference] == 1
        assert not failed or journal[reference] == 0
        assert not sure or not unknown
    assert len(journal) == sum(1 for reference in world.references() if journal[reference])


ROUNDS = [*range(4), *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(4, 120))]


@dataclass
class Rounds:
    """Claims, posts, deaths and copies as chance has it."""

    world: JournalledWorld
    chance: random.Random
    refuses: frozenset[str]
    copies: list[Copy] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.copies.append(copy_of(self.world.ledger))

    def dispatch(self) -> None:
        with suppress(Died):
            self.world.process_with(self.provider(calm=False), self.happens)
        if self.chance.random() < 0.3:
            assert self.world.look() is None

    def provider(self, *, calm: bool) -> Unruly:
        world = self.world
        made = Unruly(world.folder / "simulator.sqlite", chunk=world.chunk, recovery=world.recovery)
        made.chance, made.refuses, made.calm = self.chance, self.refuses, calm
        return made

    def happens(self, _: str) -> None:
        drawn = self.chance.random()
        if drawn < 0.04:
            raise Died
        if drawn < 0.10:
            self.copies.append(copy_of(self.world.ledger))

    def restore(self) -> None:
        restore(self.world.ledger, self.chance.choice(self.copies))
        if self.world.look() is not None:
            self.world.put_back()
            self.world.reconcile()
        with self.world.ledger.read() as connection:
            assert controls.general(connection) is None


@on_postgresql_slowly
@pytest.mark.parametrize("seed", ROUNDS)
def test_claims_posts_deaths_copies_and_restores_in_any_order(new_folder: Callable[[], Path], seed: int) -> None:
    chance = random.Random(seed)
    recovery, refuses = list(Recovery)[seed % 3], frozenset({mobile(5)} if seed % 2 else set())
    recipients, chunk = lines(chance.choice([4, 12, 30])), chance.choice([1, 3, 7])
    rounds = Rounds(JournalledWorld(new_folder(), recovery, chunk, recipients=recipients), chance, refuses)
    for _ in range(chance.randrange(2, 6)):
        for _ in range(chance.randrange(1, 4)):
            rounds.dispatch()
        if chance.random() < 0.7:
            rounds.restore()
    for _ in range(3):
        rounds.world.process_with(rounds.provider(calm=True), lambda _: None)
    _assert_none_twice_none_lost(rounds.world, sure=recovery is not Recovery.NEITHER and not refuses)


@on_postgresql_slowly
@pytest.mark.parametrize(
    ("recovery", "restores"),
    [
        (Recovery.DEDUPLICATES, 1),
        *(pytest.param(recovery, 12, marks=pytest.mark.slow) for recovery in Recovery),
    ],
)
def test_killed_and_restored_at_random_moments_it_sends_each_message_once(
    folder: Path, recovery: Recovery, restores: int
) -> None:
    chance = random.Random()
    world = JournalledWorld(folder, recovery, KILLED["chunk"], recipients=lines(200 * restores))
    for _ in range(restores):
        progress = CONTEXT.RawValue("i", 0)
        process = CONTEXT.Process(target=dispatch_with_journal, args=(folder, recovery, progress))
        process.start()
        copy = _copy_after(world, process, progress, chance.randrange(1, 4))
        _copy_after(world, process, progress, progress.value + chance.randrange(1, 6))
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL, "it was done before it was killed: give it more to do"
        restore(world.ledger, copy)
        if world.look() is not None:
            world.reconcile()
    process = CONTEXT.Process(target=dispatch_with_journal, args=(folder, recovery, CONTEXT.RawValue("i", 0)))
    process.start()
    process.join()
    assert process.exitcode == 0
    _assert_none_twice_none_lost(world, sure=recovery is not Recovery.NEITHER)


def _copy_after(world: JournalledWorld, process: ForkServerProcess, progress: Any, told: int) -> Copy:
    while progress.value <= told and process.is_alive():
        time.sleep(0.001)
    return copy_of(world.ledger)


@pytest.mark.parametrize("recovery", list(Recovery))
def test_a_fault_of_the_journals_before_a_post_leaves_no_doubt(folder: Path, recovery: Recovery) -> None:
    world = JournalledWorld(folder, recovery=recovery)

    def fails(*_: object) -> None:
        raise ValueError("a line of another version")

    with pytest.raises(ValueError, match="another version"):
        world.dispatch(world.ledger, world.simulator(), before_post=fails)
    assert world.process() == Dispatched(accepted=10)
    assert world.journal() == dict.fromkeys(world.references(), 1)
