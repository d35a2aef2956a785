"""A server killed again and again while a provider calls it: whatever was acknowledged is in the ledger, once."""

import asyncio
import random
import threading
from pathlib import Path

import pytest

from batch_pipeline_tests.gateway.serving import Gateway, stored
from benchmarks.gateway import callback, post_until_taken


@pytest.mark.parametrize(
    ("calls", "kills"), [(2_000, 3), pytest.param(10_000, 25, marks=pytest.mark.slow)], ids=["some", "many"]
)
def test_killed_at_random_moments_it_loses_and_doubles_nothing(tmp_path: Path, calls: int, kills: int) -> None:
    references = [f"flu:{line}:primary" for line in range(calls)]
    chance = random.Random()
    with Gateway(tmp_path) as gateway:
        acknowledged: list[float] = []
        provider = threading.Thread(
            target=lambda: acknowledged.extend(_post_all(gateway.port, references)), daemon=True
        )
        provider.start()
        done = 0
        while done < kills:
            _wait_for(gateway, provider, len(references) * (done + 1) // (kills + 2), chance.uniform(0, 0.02))
            assert provider.is_alive(), "it was done before it was killed often enough: give it more to do"
            gateway.kill()
            done += 1
            gateway.start()
        provider.join(120)
        assert len(acknowledged) == calls
        assert stored(gateway.ledger) == sorted(("nhs_notify", reference) for reference in references)


def _post_all(port: int, references: list[str]) -> list[float]:
    return asyncio.run(post_until_taken(port, [callback(reference) for reference in references], 32))


def _wait_for(gateway: Gateway, provider: threading.Thread, receipts: int, seconds: float) -> None:
    """Until so many are stored, and a moment longer: the kill falls anywhere between two commits."""
    pause = threading.Event()
    while len(stored(gateway.ledger)) < receipts:
        assert provider.is_alive(), "the provider has stopped calling"
        pause.wait(0.002)
    pause.wait(seconds)


def test_what_was_acknowledged_before_a_kill_is_there_without_a_repeat(tmp_path: Path) -> None:
    """The other test's client repeats; this one notes what had been answered when the server died, and stops."""
    acknowledged: list[str] = []

    async def post_until_killed(gateway: Gateway) -> None:
        some_at_once = asyncio.Semaphore(32)

        async def post(reference: str) -> None:
            async with some_at_once:
                await post_until_taken(gateway.port, [callback(reference)], 1)
            acknowledged.append(reference)
            if len(acknowledged) == 100:
                gateway.kill()
                raise asyncio.CancelledError

        await asyncio.gather(*(post(f"flu:{line}:primary") for line in range(2_000)))

    with Gateway(tmp_path) as gateway:
        with pytest.raises(asyncio.CancelledError):
            asyncio.run(post_until_killed(gateway))
        kept = [reference for _, reference in stored(gateway.ledger)]
        assert set(acknowledged) <= set(kept)
        assert len(kept) == len(set(kept)) < 2_000


def test_one_that_is_stopped_stores_what_it_took(tmp_path: Path) -> None:
    references = [f"flu:{line}:primary" for line in range(1_000)]
    with Gateway(tmp_path) as gateway:
        provider = threading.Thread(target=_post_all, args=(gateway.port, references), daemon=True)
        provider.start()
        _wait_for(gateway, provider, 100, 0)
        assert gateway.stop() == 0
        assert provider.is_alive()
        kept = len(stored(gateway.ledger))
        assert sum(line.get("receipts", 0) for line in gateway.log()) <= kept < 1_000
        assert not [line for line in gateway.log() if line["level"] == "error"]
        gateway.start()
        provider.join(60)
        assert len(stored(gateway.ledger)) == 1_000
