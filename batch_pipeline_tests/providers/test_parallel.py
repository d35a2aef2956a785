import queue
import threading
import time

import pytest

from batch_pipeline.clocks import seconds_since_boot
from batch_pipeline.providers.parallel import Done, Jobs


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_every_job_is_done_once_by_so_many_at_a_time() -> None:
    names: set[tuple[str, bool]] = set()
    together = threading.Barrier(4)

    def worker(jobs: Jobs[int, int]) -> None:
        names.add((threading.current_thread().name, threading.current_thread().daemon))
        together.wait(5)
        while (taken := jobs.begin()) is not None:
            jobs.end(taken[0], taken[1] * 2, halt=False)

    done = Jobs[int, int](range(500), seconds_since_boot() + 10, seconds_since_boot).run(worker, 4)
    assert done == Done([(job, job * 2) for job in range(500)], [], range(500, 500))
    assert names == {(f"job-{number}", True) for number in range(4)}, "a daemon doesn't keep the process from ending"


def test_there_are_no_more_workers_than_jobs_and_without_jobs_none() -> None:
    started: list[int] = []
    Jobs[int, int]([], seconds_since_boot() + 10, seconds_since_boot).run(lambda _jobs: started.append(1), 4)
    assert started == []


def test_after_a_halt_no_job_is_begun_and_those_at_work_are_waited_for() -> None:
    both_begun = threading.Barrier(2)

    def worker(jobs: Jobs[int, str]) -> None:
        taken = jobs.begin()
        both_begun.wait(5)
        if taken is not None and taken[1] == 0:
            jobs.end(0, "halted", halt=True)
        elif taken is not None:
            time.sleep(0.05)
            jobs.end(1, "ended", halt=False)
        assert jobs.begin() is None

    done = Jobs[int, str]([0, 1, 2, 3], seconds_since_boot() + 10, seconds_since_boot).run(worker, 2)
    assert (done.results, done.unfinished, done.not_begun) == ([(0, "halted"), (1, "ended")], [], [2, 3])


def test_at_the_deadline_nobody_is_waited_for_and_what_comes_later_is_thrown_away() -> None:
    release = threading.Event()
    late: list[object] = []

    def worker(jobs: Jobs[int, str]) -> None:
        if jobs.begin() == (0, 0):
            release.wait(5)
            jobs.end(0, "late", halt=False)
            late.append(jobs.begin())

    began = time.monotonic()
    done = Jobs[int, str]([0, 1], seconds_since_boot() + 0.1, seconds_since_boot).run(worker, 1)
    assert time.monotonic() - began < 1
    release.set()
    assert (done.results, done.unfinished, done.not_begun) == ([], [0], [1])
    while not late:
        time.sleep(0.01)
    assert late == [None]


def test_once_the_deadline_is_past_no_job_is_begun() -> None:
    clock = Clock()

    def worker(jobs: Jobs[int, str]) -> None:
        taken = jobs.begin()
        assert taken is not None
        jobs.end(taken[0], "in time", halt=False)
        clock.now = 101.0
        assert jobs.begin() is None

    done = Jobs[int, str]([0, 1, 2], 100.3, clock).run(worker, 1)
    assert (done.results, done.unfinished, done.not_begun) == ([(0, "in time")], [], [1, 2])


def test_whoever_is_interrupted_leaves_nobody_behind_who_begins_more(monkeypatch: pytest.MonkeyPatch) -> None:
    interrupted, after = threading.Event(), queue.Queue[object]()

    def interrupt(_: object) -> None:
        raise KeyboardInterrupt

    def worker(jobs: Jobs[int, str]) -> None:
        interrupted.wait(5)
        after.put(jobs.begin())

    monkeypatch.setattr(Jobs, "_wait", interrupt)
    with pytest.raises(KeyboardInterrupt):
        Jobs[int, str]([0, 1], seconds_since_boot() + 10, seconds_since_boot).run(worker, 1)
    interrupted.set()
    assert after.get(timeout=5) is None
