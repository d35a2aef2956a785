"""Many small jobs at once until a deadline, after which none is begun and none is waited for.

A request's time-out counts anew with every byte that comes, so a server that dribbles could hold a caller for as long
as it likes. Here the caller leaves at the deadline, and the thread that still hangs is on its own: what it brings is
thrown away.
"""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

Job = TypeVar("Job")
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Done(Generic[Job, Result]):
    """What became of each job."""

    results: Sequence[tuple[Job, Result]]
    unfinished: Sequence[Job]
    """Begun, and still at it at the deadline."""
    not_begun: Sequence[Job]
    """And never will be."""


class Jobs(Generic[Job, Result]):
    """The jobs of one call, which its workers take one by one."""

    def __init__(self, jobs: Sequence[Job], deadline: float, steady: Callable[[], float]) -> None:
        self.deadline = deadline
        self._jobs = jobs
        self._steady = steady
        self._changed = threading.Condition()
        self._begun = 0
        self._halted = False
        self._results: dict[int, Result] = {}

    def begin(self) -> tuple[int, Job] | None:
        """The next job and its place; ``None`` when no more may be begun."""
        with self._changed:
            if self._halted or self._begun == len(self._jobs) or self._steady() >= self.deadline:
                return None
            self._begun += 1
            return self._begun - 1, self._jobs[self._begun - 1]

    def end(self, place: int, result: Result, *, halt: bool) -> None:
        """Hands in a result; with ``halt`` no further job is begun."""
        with self._changed:
            self._results[place] = result
            self._halted = self._halted or halt
            self._changed.notify()

    def run(self, worker: Callable[["Jobs[Job, Result]"], None], workers: int) -> Done[Job, Result]:
        """Lets so many threads work; returns when all is done, or halted and ended, and at the deadline at the latest.

        The threads are daemons, and made anew each time: one that hangs takes nothing from the next call, and doesn't
        keep the process from ending.
        """
        try:
            for number in range(min(workers, len(self._jobs))):
                threading.Thread(target=worker, args=[self], name=f"job-{number}", daemon=True).start()
            self._wait()
        finally:
            with self._changed:
                self._halted = True
        return self._done()

    def _wait(self) -> None:
        with self._changed:
            while self._is_at_work() and (left := self.deadline - self._steady()) > 0:
                self._changed.wait(left)

    def _is_at_work(self) -> bool:
        may_begin = not self._halted and self._begun < len(self._jobs)
        return may_begin or len(self._results) < self._begun

    def _done(self) -> Done[Job, Result]:
        with self._changed:
            begun = list(enumerate(self._jobs[: self._begun]))
            return Done(
                [(job, self._results[place]) for place, job in begun if place in self._results],
                [job for place, job in begun if place not in self._results],
                self._jobs[self._begun :],
            )
