"""Several workers of one dispatch, by the real clocks."""

import itertools
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from typing_extensions import override

from batch_pipeline import progress
from batch_pipeline.errors import Refused
from batch_pipeline.ledger import chunks
from batch_pipeline.ledger.engine import Ledger
from batch_pipeline.ledger.journal import Journal
from batch_pipeline.ledger.tables import batches
from batch_pipeline.providers.protocol import Answer, Channel, Limits, NotTaken, OutgoingMessage, Provider, Recovery
from batch_pipeline.sending.dispatcher import Dispatched, dispatch
from batch_pipeline.sending.recording import Recorder
from batch_pipeline_tests.ledger.given import BATCH, NOW, lines
from batch_pipeline_tests.ledgers import on_sqlite_alone
from batch_pipeline_tests.sending.test_dispatcher import Scripted
from batch_pipeline_tests.sending.worlds import WatchedLedger, World, providers


class Slow(Scripted):
    """Takes its time over each call; knows how many it had at once, and may fail or be told something in one."""

    def __init__(self, seconds: float = 0.05, **more: Any) -> None:
        super().__init__(**more)
        self.seconds = seconds
        self.at_work, self.most = 0, 0
        self.lock = threading.Lock()
        self.happens: Callable[[int], None] = lambda _: None

    @override
    def send(self, chunk_reference: str, messages: Sequence[OutgoingMessage], now: datetime) -> Answer:
        with self.lock:
            self.at_work += 1
            self.most = max(self.most, self.at_work)
            count = len(self.posts)
            answer = super().send(chunk_reference, messages, now)
        self.happens(count)
        time.sleep(self.seconds)
        with self.lock:
            self.at_work -= 1
        return answer


def _dispatch_really(world: World, given: Mapping[Channel, Provider], **more: Any) -> Dispatched:
    return dispatch(world.ledger, BATCH, given, now=NOW, owner="a test", **more)


def test_as_many_calls_at_once_as_the_provider_takes(folder: Path) -> None:
    world = World(folder, recipients=[*lines(20), *lines(20, "email", start=30)])
    provider = Slow(limits=Limits(2, timedelta(seconds=5), at_once=4))
    told: list[int] = []
    result = _dispatch_really(world, providers(provider), on_progress=lambda done, _: told.append(done))
    assert result == Dispatched(accepted=40)
    assert provider.most == 4
    assert Counter(reference for _, posted in provider.posts for reference in posted) == dict.fromkeys(
        world.references(), 1
    )
    assert told == sorted(told)
    assert told[-1] == 40


def test_the_progress_of_all_workers_is_told_to_who_watches(folder: Path) -> None:
    world = World(folder, recipients=lines(20))
    heard: list[int] = []
    with progress.watched(lambda _what, done, _total: heard.append(done)):
        provider = Slow(0.001, limits=Limits(2, timedelta(seconds=5), at_once=4))
        _dispatch_really(world, providers(provider), on_progress=lambda done, total: progress.tell("x", done, total))
    assert heard[-1] == 20


def test_a_provider_that_takes_fewer_at_once_than_it_is_given_gets_them_all(folder: Path) -> None:
    world = World(folder, recipients=lines(30))

    class Narrow(Slow):
        @override
        def send(self, chunk_reference: str, messages: Sequence[OutgoingMessage], now: datetime) -> Answer:
            if self.at_work >= 2:
                raise NotTaken("421 too many connections")
            return super().send(chunk_reference, messages, now)

    provider = Narrow(limits=Limits(1, timedelta(seconds=60), at_once=6))
    result = _dispatch_really(world, providers(provider), sleep=lambda _: time.sleep(0.01))
    assert result == Dispatched(accepted=30)


def test_a_provider_that_has_to_wait_holds_nobody_else_up(folder: Path) -> None:
    world = World(folder, recipients=[*lines(3), *lines(20, "email", start=30)])
    waits = Scripted(NotTaken("over the quota", timedelta(seconds=3)))
    goes = Slow(0.001)
    posts_of_the_other: list[int] = []
    goes.happens = lambda _: posts_of_the_other.append(len(waits.posts))
    assert _dispatch_really(world, {"sms": waits, "email": goes}).accepted == 23
    assert max(posts_of_the_other) <= 1, "all emails went while the other provider waited for its second call"
    assert len(waits.posts) == 2


def test_a_worker_that_fails_ends_the_run_and_what_the_others_have_in_hand_is_recorded(folder: Path) -> None:
    world = World(folder, recipients=lines(40))
    provider = Slow(limits=Limits(1, timedelta(seconds=0.2), at_once=4), recovery=Recovery.NEITHER)

    def fails(count: int) -> None:
        if count == 5:
            raise ZeroDivisionError

    provider.happens = fails
    with pytest.raises(ZeroDivisionError):
        _dispatch_really(world, providers(provider))
    accepted = [line for line, accepted, _, _ in world.states() if accepted]
    assert len(accepted) == len(provider.posts) - 1 < 20
    assert not any(thread.name.startswith("dispatch-") for thread in threading.enumerate())
    result = _dispatch_really(world, providers(Scripted(recovery=Recovery.NEITHER)))
    assert (result.accepted, result.unconfirmed) == (39 - len(accepted), 1), "all but the one whose call failed"


def test_a_run_that_ends_posts_nothing_that_was_waiting(folder: Path) -> None:
    """Its waits end early, and what was to follow them doesn't."""
    world = World(folder, recipients=[*lines(3), *lines(3, "email", start=30)])
    waits = Scripted(NotTaken("over the quota", timedelta(minutes=5)))
    fails = Slow(0.3)

    def fail(_: int) -> None:
        time.sleep(0.3)
        raise ZeroDivisionError

    fails.happens = fail
    began = time.monotonic()
    with pytest.raises(ZeroDivisionError):
        _dispatch_really(world, {"sms": waits, "email": fails})
    assert time.monotonic() < began + 60
    assert len(waits.posts) == 1
    with world.ledger.read() as connection:
        assert chunks.unsent(connection, BATCH, "primary") == {("sms", "simulator"): 3}


@on_sqlite_alone
@pytest.mark.usefixtures("awaited_disks")
def test_workers_with_an_answer_at_the_same_time_share_commits_and_syncs(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World(folder, recipients=lines(80))
    together = threading.Barrier(4, timeout=30)
    syncs: list[int] = []
    really = os.fsync

    def sync(descriptor: int) -> None:
        syncs.append(descriptor)
        time.sleep(0.005)
        really(descriptor)

    monkeypatch.setattr(os, "fsync", sync)
    provider = Slow(0, limits=Limits(1, timedelta(seconds=60), at_once=4), recovery=Recovery.NEITHER)
    provider.happens = lambda _: (together.wait(), None)[1]
    moments: list[str] = []
    ledger = WatchedLedger.of(world.ledger, moments.append)
    recorder = Recorder(ledger, Journal(folder / "claims"))
    result = dispatch(ledger, BATCH, providers(provider), now=NOW, owner="a test", before_post=recorder.before_post)
    assert result == Dispatched(accepted=80)
    assert moments.count("after commit") < 60, "80 answers and as many claims"
    assert len(syncs) < 70, "80 lines in the journal"


def test_one_channel_that_is_paused_by_a_person_in_between_pauses_all_workers(folder: Path) -> None:
    world = World(folder, recipients=lines(60))
    provider = Slow(limits=Limits(1, timedelta(seconds=5), at_once=4))
    provider.happens = lambda count: _pause(world) if count == 10 else None
    result = _dispatch_really(world, providers(provider))
    assert 10 < result.accepted <= 15
    assert result.accepted == len(provider.posts)
    assert (result.unsent, result.left_open) == (60 - result.accepted, 0)


def _pause(world: World) -> None:
    with world.ledger.write() as connection:
        connection.execute(sa.update(batches).values(paused_at=NOW))


def test_an_answer_is_recorded_though_the_run_is_about_to_end_and_the_ledger_is_away_for_a_moment(folder: Path) -> None:
    world = World(folder, recipients=lines(2))
    away, claimed, taken = threading.Event(), threading.Event(), threading.Event()
    turns = itertools.count()

    class Away(Ledger):
        @override
        @contextmanager
        def write(self) -> Generator[sa.Connection]:
            if away.is_set():
                raise Refused("the ledger can't be reached")
            with super().write() as connection:
                yield connection

    def fails_second(*_: object) -> None:
        if next(turns):
            claimed.set()
            assert taken.wait(10)
            raise ValueError("what ends the run")

    def goes_away(_: int) -> None:
        assert claimed.wait(10)
        away.set()
        taken.set()
        threading.Timer(1.5, away.clear).start()

    provider = Slow(0.2, limits=Limits(1, timedelta(seconds=5), at_once=2), recovery=Recovery.NEITHER)
    provider.happens = goes_away
    with pytest.raises(ValueError, match="ends the run"):
        dispatch(
            Away(world.ledger._engine), BATCH, providers(provider), now=NOW, owner="a test", before_post=fails_second
        )
    assert sorted(accepted is not None for _, accepted, *_ in world.states()) == [False, True]
