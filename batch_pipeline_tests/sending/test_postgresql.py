"""What PostgreSQL alone does: many dispatches of one batch side by side, and a server that dies under them."""

import random
import signal
import time
from collections.abc import Callable, Iterator
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import pytest
import sqlalchemy as sa

from batch_pipeline.ledger.dialects import serving_since
from batch_pipeline.providers.protocol import Recovery
from batch_pipeline_tests.ledger.given import ELSEWHERE, lines
from batch_pipeline_tests.ledgers import on_postgresql_alone
from batch_pipeline_tests.postgres import Cluster
from batch_pipeline_tests.processes import CONTEXT
from batch_pipeline_tests.sending.worlds import SERVER_GONE, World, dispatch_slowly

CRASHES = 3
MESSAGES = 400


def _dispatch(
    world: World, *, chunk: int, seconds: float, timeout: float = 5, recovery: Recovery = Recovery.DEDUPLICATES
) -> tuple[ForkServerProcess, Callable[[], bool]]:
    """A process that sends the batch, and whether it has begun."""
    begun = CONTEXT.RawValue("i", 0)
    process = CONTEXT.Process(target=dispatch_slowly, args=(world.folder, chunk, seconds, timeout, recovery, begun))
    process.start()
    return process, lambda: bool(begun.value)


def _assert_all_once(world: World) -> None:
    assert world.journal() == dict.fromkeys(world.references(), 1)
    assert all(accepted for _, accepted, _, _ in world.states())


def _send(world: World, processes: int, chunk: int, seconds: float) -> float:
    """Seconds that so many processes take for the batch; more than one takes part, if there are more."""
    started = time.monotonic()
    running = [_dispatch(world, chunk=chunk, seconds=seconds) for _ in range(processes)]
    for process, _ in running:
        process.join()
    took = time.monotonic() - started
    assert [process.exitcode for process, _ in running] == [0] * processes
    _assert_all_once(world)
    assert sum(begun() for _, begun in running) >= min(processes, 2), "the others came too late to take part"
    return took


@on_postgresql_alone
def test_four_dispatches_of_one_batch_at_once_send_each_message_once(folder: Path) -> None:
    _send(World(folder, recipients=lines(2_000)), processes=4, chunk=20, seconds=0.05)


@pytest.mark.slow
@on_postgresql_alone
def test_one_dispatch_of_100_000_and_then_four_at_once_send_each_message_once(new_folder: Callable[[], Path]) -> None:
    """How long each takes is printed, and measured by ``benchmarks.dispatching``: here others use the machine too."""
    for processes in (1, 4):
        took = _send(World(new_folder(), recipients=lines(100_000)), processes, chunk=100, seconds=0.05)
        print(f"{processes} at once: 100,000 messages in {took:.1f} s")  # noqa: T201 - for who looks


@pytest.fixture
def world_on_own_cluster(own_cluster: Cluster, tmp_path: Path) -> Iterator[World]:
    name = own_cluster.new_database()
    (tmp_path / ELSEWHERE).write_text(own_cluster.url(name))
    yield World(tmp_path, recipients=lines(MESSAGES))
    own_cluster.take_back(name)


@pytest.mark.postgresql
@pytest.mark.parametrize("seed", [*range(2), *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(2, 24))])
def test_a_server_that_dies_at_random_moments_loses_nothing_and_doubles_nothing(
    own_cluster: Cluster, world_on_own_cluster: World, seed: int
) -> None:
    world, chance = world_on_own_cluster, random.Random(seed)
    world.recovery = (Recovery.DEDUPLICATES, Recovery.CAN_BE_ASKED)[seed % 2]
    for _ in range(CRASHES):
        process, begun = _dispatch(world, chunk=4, seconds=0.002, timeout=0.05, recovery=world.recovery)
        while not begun():
            assert process.is_alive()
            time.sleep(0.001)
        time.sleep(chance.uniform(0, 0.15))
        own_cluster.crash(chance.choice([signal.SIGKILL, signal.SIGQUIT]))
        process.join()
        assert process.exitcode == SERVER_GONE
        own_cluster.start()
    assert 0 < len(world.journal()) < MESSAGES, "it was done before the server had died often enough"
    process, _ = _dispatch(world, chunk=100, seconds=0, timeout=0.05, recovery=world.recovery)
    process.join()
    assert process.exitcode == 0
    _assert_all_once(world)


@pytest.mark.postgresql
def test_another_server_is_told_from_the_one_that_was_compared_with_the_journal(
    own_cluster: Cluster, world_on_own_cluster: World
) -> None:
    def server() -> object:
        with world_on_own_cluster.ledger.read() as connection:
            return connection.scalar(sa.select(serving_since("postgresql")))

    before = server()
    world_on_own_cluster.ledger.close()
    assert server() == before
    own_cluster.crash(signal.SIGKILL)
    own_cluster.start()
    assert server() != before
