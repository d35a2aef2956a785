"""How many requests one caller may make of this process in a minute, and for one link. It keeps nothing on disk.

It is for the load. What keeps dates of birth from being guessed is counted in the ledger, for all processes together.
"""

from collections.abc import Callable

_MOST_KNOWN = 50_000


class Throttle:
    """Counts by the minute. ``steady``: seconds of a clock that nobody sets."""

    def __init__(self, most: int, steady: Callable[[], float]) -> None:
        self._most = most
        self._steady = steady
        self._minute = -1
        self._counts: dict[str, int] = {}

    def lets(self, caller: str) -> bool:
        """Counts a request of a caller; false when it is one too many."""
        minute = int(self._steady() // 60)
        if minute != self._minute or len(self._counts) >= _MOST_KNOWN:
            self._minute, self._counts = minute, {}
        count = self._counts[caller] = self._counts.get(caller, 0) + 1
        return count <= self._most
