"""One thread does what several want: seen with a gate that holds the first of them up until the others wait."""

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from batch_pipeline.ledger.grouping import Grouped


class Gate:
    """Does groups of wishes; the first only once it is opened."""

    def __init__(self) -> None:
        self.groups: list[list[str]] = []
        self.opened, self.entered = threading.Event(), threading.Event()
        self.does: Callable[[Sequence[str]], int] = len

    def do(self, wishes: Sequence[str]) -> int:
        self.groups.append(list(wishes))
        if len(self.groups) == 1:
            self.entered.set()
            assert self.opened.wait(10)
        return self.does(wishes)


def run(gate: Gate, first: str, others: Sequence[str]) -> list[Future[None]]:
    """The first is at it while the others come, one after another; then the gate opens."""
    grouped = Grouped(gate.do)
    with ThreadPoolExecutor(len(others) + 1) as pool:
        asked = [pool.submit(grouped, first)]
        assert gate.entered.wait(10)
        for number, wish in enumerate(others, start=1):
            asked.append(pool.submit(grouped, wish))
            while len(grouped._gathered) < number:
                time.sleep(0.001)
        assert not any(each.done() for each in asked), "nobody is told before it is done"
        gate.opened.set()
    return asked


def test_alone_it_is_done_at_once() -> None:
    gate = Gate()
    gate.opened.set()
    Grouped(gate.do)("a")
    assert gate.groups == [["a"]]


def test_those_who_come_meanwhile_go_together() -> None:
    gate = Gate()
    asked = run(gate, "a", ["b", "c", "d"])
    assert [each.exception() for each in asked] == [None] * 4
    assert gate.groups == [["a"], ["b", "c", "d"]]


def test_what_was_left_undone_comes_first_next_time() -> None:
    gate = Gate()
    gate.does = lambda wishes: min(2, len(wishes))
    asked = run(gate, "a", ["b", "c", "d", "e", "f"])
    assert [each.exception() for each in asked] == [None] * 6
    assert gate.groups == [["a"], ["b", "c", "d", "e", "f"], ["d", "e", "f"], ["f"]]


def test_a_failure_is_told_to_all_of_its_group_and_to_nobody_else() -> None:
    gate = Gate()

    def fails(wishes: Sequence[str]) -> int:
        if "b" in wishes:
            raise OSError(28, "No space left on device")
        return len(wishes)

    gate.does = fails
    asked = run(gate, "a", ["b", "c"])
    assert [type(each.exception()) for each in asked] == [type(None), OSError, OSError]


def test_after_a_failure_it_goes_on() -> None:
    gate = Gate()
    gate.opened.set()
    grouped = Grouped(gate.do)
    failing: Callable[[Sequence[str]], int] = lambda _: 1 // 0  # noqa: E731
    gate.does = failing
    with pytest.raises(ZeroDivisionError):
        grouped("a")
    gate.does = len
    grouped("b")
    assert gate.groups == [["a"], ["b"]]


def test_many_threads_each_see_all_of_theirs_done() -> None:
    done: list[tuple[int, int]] = []
    at_it = threading.Lock()

    def do(wishes: Sequence[tuple[int, int]]) -> int:
        assert at_it.acquire(blocking=False), "one at a time"
        time.sleep(0.0005)
        some = wishes[: 1 + len(done) % 3]
        done.extend(some)
        at_it.release()
        return len(some)

    grouped = Grouped(do)

    def work(worker: int) -> None:
        for number in range(20):
            grouped((worker, number))
            assert (worker, number) in done

    with ThreadPoolExecutor(6) as pool:
        for each in [pool.submit(work, worker) for worker in range(6)]:
            each.result(30)
    assert sorted(done) == [(worker, number) for worker in range(6) for number in range(20)]
    assert all([each for each in done if each[0] == worker] == [(worker, n) for n in range(20)] for worker in range(6))


def test_whoever_is_interrupted_as_it_waits_takes_its_wish_back(monkeypatch: pytest.MonkeyPatch) -> None:
    gate = Gate()
    grouped = Grouped(gate.do)
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(grouped, "a")
        assert gate.entered.wait(10)
        with monkeypatch.context() as patch:
            patch.setattr(grouped._change, "wait", _interrupt)
            with pytest.raises(KeyboardInterrupt):
                grouped("b")
        gate.opened.set()
        first.result(10)
    grouped("c")
    assert gate.groups == [["a"], ["c"]]


def test_whoever_is_interrupted_as_it_leads_lets_another_lead() -> None:
    gate = Gate()
    gate.opened.set()
    gate.does = _interrupt
    grouped = Grouped(gate.do)
    with pytest.raises(KeyboardInterrupt):
        grouped("a")
    gate.does = len
    with ThreadPoolExecutor(1) as pool:
        pool.submit(grouped, "b").result(10)
    assert gate.groups == [["a"], ["b"]]


def _interrupt(*_: object) -> int:
    raise KeyboardInterrupt
