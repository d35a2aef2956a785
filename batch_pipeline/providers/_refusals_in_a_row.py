"""Refusals that may speak of one recipient or of us: how many come in a row tells which.

An odd recipient stands alone among others who are taken. A relay that doesn't let us, or a template that isn't right,
refuses everybody: and whoever is refused for that isn't sent to again.
"""

import threading

FEW = 3
"""In a row, before anybody was taken: then nothing speaks for the account."""
MANY = 10
"""In a row, when others were taken before: bad addresses do come in threes."""


class RefusalsInARow:
    """Counts the messages that an account was refused since somebody was last taken; for any number of threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._references: set[str] = set()
        self._has_taken = False

    def __contains__(self, reference: str) -> bool:
        """Whether this message was refused since somebody was last taken."""
        with self._lock:
            return reference in self._references

    @property
    def has_taken(self) -> bool:
        """Whether the account has ever taken a message."""
        return self._has_taken

    @property
    def are_too_many(self) -> bool:
        """Whether it is us and not they."""
        return len(self._references) >= (MANY if self._has_taken else FEW)

    def add(self, reference: str) -> bool:
        """Counts a refused message, each once; whether it is a new one."""
        with self._lock:
            is_new = reference not in self._references
            self._references.add(reference)
            return is_new

    def taken(self) -> None:
        """Somebody was taken: the row is over."""
        with self._lock:
            self._has_taken = True
            self._references.clear()
