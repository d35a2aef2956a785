"""Writes of several threads: as if each had a transaction of its own, and on SQLite with fewer commits."""

import itertools
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy.exc import IntegrityError, OperationalError
from typing_extensions import override

from batch_pipeline.ledger.engine import Ledger
from batch_pipeline.ledger.tables import facts
from batch_pipeline.ledger.together import WritesTogether
from batch_pipeline_tests.ledger.given import open_ledger
from batch_pipeline_tests.ledgers import on_sqlite_alone

Work = Callable[[sa.Connection], Any]


class Counted(Ledger):
    """Counts its writing transactions; ``before_commit`` may raise."""

    @classmethod
    def of(cls, ledger: Ledger) -> "Counted":
        counted = cls(ledger._engine)
        counted.writes, counted.before_commit = 0, lambda: None
        return counted

    @override
    @contextmanager
    def write(self) -> Generator[sa.Connection]:
        self.writes += 1
        with super().write() as connection:
            yield connection
            self.before_commit()

    writes: int
    before_commit: Callable[[], None]


@dataclass
class Crowd:
    """Threads that write while one holds the ledger up: what they want gathers."""

    ledger: Counted
    steady: Iterator[float] = field(default_factory=lambda: itertools.repeat(0.0))

    def write(self, works: Sequence[Work]) -> list[Future[Any]]:
        together = WritesTogether(self.ledger, lambda: next(self.steady))
        entered, opened = threading.Event(), threading.Event()

        def hold(_: sa.Connection) -> None:
            entered.set()
            assert opened.wait(10)

        with ThreadPoolExecutor(len(works) + 1) as pool:
            pool.submit(together.write, hold)
            assert entered.wait(10)
            asked: list[Future[Any]] = []
            for number, work in enumerate(works, start=1):
                asked.append(pool.submit(together.write, work))
                while len(together._together._gathered) < number:
                    time.sleep(0.001)
            self.ledger.writes = 0
            opened.set()
        return asked


def note(name: str, then: Work = lambda _: None) -> Work:
    def work(connection: sa.Connection) -> str:
        connection.execute(sa.insert(facts).values(name=name, value=""))
        then(connection)
        return name

    return work


def fail(_: sa.Connection) -> None:
    raise ZeroDivisionError


def noted(ledger: Ledger) -> set[str]:
    with ledger.read() as connection:
        return set(connection.scalars(sa.select(facts.c.name).where(facts.c.value == "")))


@pytest.fixture
def counted(ledger: Ledger) -> Counted:
    return Counted.of(ledger)


def test_who_writes_gets_what_the_work_gives(counted: Counted) -> None:
    assert WritesTogether(counted, lambda: 0).write(note("a")) == "a"
    assert noted(counted) == {"a"}


def test_a_work_that_raises_leaves_nothing(counted: Counted) -> None:
    together = WritesTogether(counted, lambda: 0)
    with pytest.raises(ZeroDivisionError):
        together.write(note("a", fail))
    assert noted(counted) == set()
    together.write(note("b"))
    assert noted(counted) == {"b"}


@on_sqlite_alone
def test_those_that_wait_share_a_commit_and_one_that_fails_is_undone_alone(counted: Counted) -> None:
    asked = Crowd(counted).write([note("a"), note("b", fail), note("c"), note("a"), note("d")])
    assert [asked[number].result() for number in (0, 2, 4)] == ["a", "c", "d"]
    assert [type(asked[number].exception()) for number in (1, 3)] == [ZeroDivisionError, IntegrityError]
    assert noted(counted) == {"a", "c", "d"}
    assert counted.writes == 1


@on_sqlite_alone
def test_a_commit_that_fails_is_the_failure_of_all(counted: Counted) -> None:
    failing = iter([OperationalError("COMMIT", None, Exception("disk I/O error"))])

    def before_commit() -> None:
        if counted.writes and (failure := next(failing, None)):
            raise failure

    counted.before_commit = before_commit
    asked = Crowd(counted).write([note("a"), note("b", fail), note("c")])
    assert [type(each.exception()) for each in asked] == [OperationalError] * 3
    assert noted(counted) == set()


@on_sqlite_alone
def test_a_failure_that_ends_the_transaction_is_the_failure_of_all(counted: Counted) -> None:
    """As SQLite does on a full disk: nobody may be told that what was undone is there, nor anything more be written."""

    def disk_is_full(connection: sa.Connection) -> None:
        connection.exec_driver_sql("ROLLBACK")
        raise ZeroDivisionError

    asked = Crowd(counted).write([note("a"), note("b", disk_is_full), note("c")])
    assert [type(each.exception()) for each in asked] == [OperationalError] * 3
    assert noted(counted) == set()


@on_sqlite_alone
def test_other_processes_are_not_kept_waiting_for_many_long_writes(counted: Counted) -> None:
    every_30_ms = itertools.count(step=0.03)
    asked = Crowd(counted, every_30_ms).write([note(name) for name in "abcde"])
    assert [each.result() for each in asked] == list("abcde")
    assert counted.writes == 3, "two each, and the last"


@on_sqlite_alone
@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.sampled_from("abc"), st.booleans()), min_size=1, max_size=6))
def test_the_same_is_there_as_if_each_had_gone_by_itself(
    new_folder_of_module: Callable[[], Path], wanted: list[tuple[str, bool]]
) -> None:
    counted = Counted.of(open_ledger(new_folder_of_module()))
    asked = Crowd(counted).write([note(name, fail if fails else lambda _: None) for name, fails in wanted])
    expected: set[str] = set()
    for each, (name, fails) in zip(asked, wanted, strict=True):
        if name in expected:
            assert isinstance(each.exception(), IntegrityError)
        elif fails:
            assert isinstance(each.exception(), ZeroDivisionError)
        else:
            assert each.result() == name
            expected.add(name)
    assert noted(counted) == expected
    counted.close()
