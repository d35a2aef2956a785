"""The group commit by itself: what goes together, what doesn't, and what whoever waits is told."""

import asyncio
import threading
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager
from pathlib import Path

import pytest
import sqlalchemy as sa
from typing_extensions import override

from batch_pipeline.gateway.storing import Full, NotStored, Storing
from batch_pipeline.ledger.engine import Ledger
from batch_pipeline.providers.protocol import Receipt
from batch_pipeline_tests.gateway.serving import stored
from batch_pipeline_tests.ledger.given import NOW, open_ledger


class Gated(Ledger):
    """Counts transactions, and begins none while the gate is shut."""

    @classmethod
    def of(cls, ledger: Ledger) -> "Gated":
        made = cls(ledger._engine)
        made.gate, made.writes = threading.Event(), 0
        made.gate.set()
        return made

    @override
    @contextmanager
    def write(self) -> Generator[sa.Connection]:
        self.gate.wait(10)
        self.writes += 1
        with super().write() as connection:
            yield connection

    gate: threading.Event
    writes: int


@pytest.fixture
def ledger(tmp_path: Path) -> Gated:
    return Gated.of(open_ledger(tmp_path))


def receipt(number: int) -> Receipt:
    return Receipt(f"key {number}", f"flu:{number}:primary", "delivered", NOW)


def storing(ledger: Ledger, most_waiting: int = 100, seconds: float = 5) -> Storing:
    return Storing(ledger, lambda: NOW, most_waiting=most_waiting, seconds=seconds)


def run(test: Callable[[], Awaitable[None]]) -> None:
    async def under_a_limit() -> None:
        async with asyncio.timeout(10):
            await test()

    asyncio.run(under_a_limit())


async def begun(*numbers: int, by: Storing, provider: str = "p") -> list["asyncio.Task[None]"]:
    """Callbacks of one receipt each, waiting in this order."""
    tasks = [asyncio.create_task(by.store(provider, [receipt(number)])) for number in numbers]
    await asyncio.sleep(0.02)
    return tasks


def test_what_gathers_during_a_commit_goes_into_the_next_together(ledger: Gated) -> None:
    async def test() -> None:
        async with storing(ledger) as store:
            ledger.gate.clear()
            first = await begun(1, by=store)
            others = await begun(*range(2, 50), by=store)
            again = await begun(1, 2, by=store, provider="another")
            assert not any(task.done() for task in first + others)
            ledger.gate.set()
            await asyncio.gather(*first, *others, *again)
        assert ledger.writes == 2
        assert len(stored(ledger)) == 51

    run(test)


def test_nobody_is_told_before_the_commit(ledger: Gated) -> None:
    async def test() -> None:
        async with storing(ledger) as store:
            await store.store("p", [receipt(1)])
            assert len(stored(ledger)) == 1

    run(test)


def test_when_it_is_full_no_more_are_taken_and_then_again(ledger: Gated) -> None:
    async def test() -> None:
        async with storing(ledger, most_waiting=3) as store:
            ledger.gate.clear()
            tasks = await begun(1, by=store)  # is being written: waits no more
            tasks += await begun(2, 3, 4, by=store)
            with pytest.raises(Full):
                await store.store("p", [receipt(5)])
            ledger.gate.set()
            await asyncio.gather(*tasks)
            await store.store("p", [receipt(5)])
        assert len(stored(ledger)) == 5

    run(test)


def test_one_call_larger_than_the_queue_is_taken_when_nothing_waits(ledger: Gated) -> None:
    async def test() -> None:
        async with storing(ledger, most_waiting=3) as store:
            await store.store("p", [receipt(number) for number in range(10)])
        assert len(stored(ledger)) == 10

    run(test)


def test_the_end_waits_for_all_that_was_taken_and_takes_no_more(ledger: Gated) -> None:
    async def test() -> None:
        store = storing(ledger)
        async with store:
            ledger.gate.clear()
            tasks = await begun(1, 2, 3, by=store)
            threading.Timer(0.1, ledger.gate.set).start()
        assert len(stored(ledger)) == 3
        await asyncio.gather(*tasks)
        with pytest.raises(Full):
            await store.store("p", [receipt(4)])

    run(test)


def test_whoever_stops_waiting_changes_nothing(ledger: Gated) -> None:
    async def test() -> None:
        async with storing(ledger) as store:
            ledger.gate.clear()
            tasks = await begun(1, 2, 3, by=store)
            tasks[0].cancel()
            tasks[1].cancel()
            ledger.gate.set()
            await tasks[2]
        assert len(stored(ledger)) == 3

    run(test)


def test_a_caller_waits_so_long_and_is_told_that_it_isn_t_stored(ledger: Gated) -> None:
    async def test() -> None:
        async with storing(ledger, seconds=0.05) as store:
            ledger.gate.clear()
            with pytest.raises(NotStored, match="TimeoutError"):
                await store.store("p", [receipt(1)])
            ledger.gate.set()
            await store.store("p", [receipt(1)])
        assert len(stored(ledger)) == 1

    run(test)


def test_one_that_can_t_be_stored_keeps_no_other_from_it(ledger: Gated) -> None:
    async def test() -> None:
        naive = Receipt("key", "flu:9:primary", "delivered", NOW.replace(tzinfo=None))
        async with storing(ledger) as store:
            ledger.gate.clear()
            first = await begun(1, by=store)
            faulty = asyncio.create_task(store.store("p", [receipt(8), naive]))
            others = await begun(2, 3, by=store)
            ledger.gate.set()
            await asyncio.gather(*first, *others)
            with pytest.raises(NotStored, match="ValueError"):
                await faulty
            await store.store("p", [receipt(4)])
        assert [reference for _, reference in stored(ledger)] == [f"flu:{number}:primary" for number in range(1, 5)]

    run(test)


def test_a_ledger_that_fails_is_not_asked_again_for_each(ledger: Gated) -> None:
    with ledger.write() as connection:
        connection.exec_driver_sql("ALTER TABLE receipts RENAME TO elsewhere")
    ledger.writes = 0

    async def test() -> None:
        async with storing(ledger) as store:
            ledger.gate.clear()
            tasks = await begun(1, by=store)
            tasks += await begun(*range(2, 20), by=store)
            ledger.gate.set()
            told = await asyncio.gather(*tasks, return_exceptions=True)
            assert {str(each) for each in told} == {"OperationalError"}
            with ledger.write() as connection:
                connection.exec_driver_sql("ALTER TABLE elsewhere RENAME TO receipts")
            await store.store("p", [receipt(1)])

    run(test)
    assert ledger.writes == 4
    assert len(stored(ledger)) == 1
