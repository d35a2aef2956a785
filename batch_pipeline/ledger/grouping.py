"""What several threads want done at the same time, done by one of them for all: a disk takes its time over each sync.

While one syncs, the others' wishes gather; the next does all of them with one more sync. Nobody is told that theirs is
done before that sync is.
"""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

Wish = TypeVar("Wish")


@dataclass(slots=True)
class _Waiting(Generic[Wish]):
    wish: Wish
    over: bool = False
    failure: BaseException | None = None


class Grouped(Generic[Wish]):
    """Any number of threads call it, each with a wish; one at a time does what has gathered.

    Args:
        do: does some wishes, in their order, in the thread of one who waits for one of them. It gives how many of them
            it did, at least one; the others come first next time. What it raises, all of them are told.
    """

    def __init__(self, do: Callable[[Sequence[Wish]], int]) -> None:
        self._do = do
        self._change = threading.Condition()
        self._gathered: list[_Waiting[Wish]] = []
        self._at_it = False

    def __call__(self, wish: Wish) -> None:
        """Returns when it is done; raises what came of doing it."""
        mine = _Waiting(wish)
        try:
            with self._change:
                self._gathered.append(mine)
            while not mine.over:
                self._wait_or_lead(mine)
        finally:
            if not mine.over:  # interrupted as it waited: nobody is to do it later
                with self._change:
                    self._gathered = [each for each in self._gathered if each is not mine]
        if mine.failure is not None:
            raise mine.failure

    def _wait_or_lead(self, mine: _Waiting[Wish]) -> None:
        """Until another has done it; or else does what has gathered, and lets another lead, whatever interrupts this."""
        leads, some, done, failure = False, list[_Waiting[Wish]](), 0, None
        try:
            with self._change:
                while self._at_it and not mine.over:
                    self._change.wait()
                if mine.over:
                    return
                leads = self._at_it = True
                some, self._gathered = self._gathered, some
                done = len(some)
            done = self._do([each.wish for each in some])
        except BaseException as caught:  # all are told, the one whose thread this is too
            if not leads:
                raise
            failure = caught
        finally:
            if leads:
                self._hand_over(some, done, failure)

    def _hand_over(self, some: list[_Waiting[Wish]], done: int, failure: BaseException | None) -> None:
        with self._change:
            for each in some[:done]:
                each.over, each.failure = True, failure
            self._gathered = some[done:] + self._gathered
            self._at_it = False
            self._change.notify_all()
