"""Real processes, really killed or stopped, by the real clocks."""

import os
import random
import signal
import time
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import pytest

from batch_pipeline.providers.simulator import Shares
from batch_pipeline_tests.ledger.given import lines
from batch_pipeline_tests.ledgers import on_postgresql_slowly
from batch_pipeline_tests.processes import CONTEXT
from batch_pipeline_tests.sending.worlds import (
    World,
    dispatch_and_stop_after_the_first_claim,
    dispatch_for_real,
)

TIMEOUT = 0.05
KILLS = 50


def _start(world: World, chunk: int, shares: Shares | None = None, progress: Any = None) -> ForkServerProcess:
    counter = CONTEXT.RawValue("i", 0) if progress is None else progress
    process = CONTEXT.Process(target=dispatch_for_real, args=(world.folder, TIMEOUT, chunk, shares, counter))
    process.start()
    return process


def _finish(world: World, chunk: int) -> None:
    process = _start(world, chunk)
    process.join()
    assert process.exitcode == 0


def _assert_all_once(world: World) -> None:
    assert world.journal() == dict.fromkeys(world.references(), 1)
    assert all(accepted for _, accepted, _, _ in world.states())


@pytest.mark.slow
@on_postgresql_slowly
@pytest.mark.parametrize("lost", [0.0, 0.2])
def test_killed_at_fifty_random_moments_it_sends_each_message_exactly_once(folder: Path, lost: float) -> None:
    chunk, shares = 4, Shares(lost_answers=lost)
    world = World(folder, recipients=lines(6_000))
    chance = random.Random()
    kills = 0
    while kills < KILLS:
        assert len(world.journal()) < 6_000, "it was done before it was killed often enough: give it more to do"
        progress = CONTEXT.RawValue("i", 0)
        process = _start(world, chunk, shares, progress)
        # Before its first chunk is done, or after some: then anywhere in looking, claiming, posting and recording.
        chunks_done = chance.randrange(4)
        while progress.value <= chunks_done and process.is_alive():
            time.sleep(0.001)
        time.sleep(chance.uniform(0, 0.04))
        process.kill()
        process.join()
        kills += process.exitcode == -signal.SIGKILL
    assert 0 < len(world.journal()) < 6_000
    _finish(world, 500)
    _assert_all_once(world)


def test_two_dispatches_of_one_batch_at_once_share_it(folder: Path) -> None:
    world = World(folder, recipients=lines(1_000))
    processes = [_start(world, 10) for _ in range(2)]
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]
    _assert_all_once(world)


def test_one_stopped_past_its_lease_and_woken_after_the_takeover_does_not_post(folder: Path) -> None:
    world = World(folder, recipients=lines(40))
    sleeper = CONTEXT.Process(target=dispatch_and_stop_after_the_first_claim, args=(folder, TIMEOUT, 4))
    sleeper.start()
    _until_it_stands_still(folder / "stopped")
    _finish(world, 4)
    _assert_all_once(world)
    assert sleeper.pid is not None
    os.kill(sleeper.pid, signal.SIGCONT)
    sleeper.join()
    assert sleeper.exitcode == 0
    assert (folder / "posts-of-the-sleeper").read_text() == ""
    _assert_all_once(world)


def _until_it_stands_still(note: Path) -> None:
    give_up = time.monotonic() + 60
    while not (note.exists() and note.read_text()):
        assert time.monotonic() < give_up
        time.sleep(0.01)
    time.sleep(0.05)


@pytest.mark.slow
def test_four_dispatches_killed_among_each_other(folder: Path) -> None:
    world = World(folder, recipients=lines(8_000))
    chance = random.Random()
    running = [_start(world, 4) for _ in range(4)]
    for _ in range(KILLS):
        time.sleep(chance.uniform(0.01, 0.1))
        victim = running.pop(chance.randrange(4))
        victim.kill()
        victim.join()
        running.append(_start(world, 4))
    for process in running:
        process.kill()
        process.join()
    _finish(world, 500)
    _assert_all_once(world)
