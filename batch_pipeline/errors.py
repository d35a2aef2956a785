"""The exceptions that cross every layer: a refusal that the user can mend, and a failure that they can't."""

import errno
from collections.abc import Iterator

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_FULL_SAYS = (
    "No space left on device",
    "database or disk is full",
    "Disk quota exceeded",
    "File too large",
    "disk I/O error",
)


class Refused(Exception):
    """Work was refused for a reason the user can mend.

    ``str(error)`` is one sentence that names the file, the line and the mend, as far as they
    apply, and holds no personal data: it is printed, logged and kept by Dagster. The shell turns it
    into exit code 1 without a traceback.
    """


class RunFailed(RuntimeError):
    """A run failed for a reason the user can't mend; names the run and the step, which the UI shows whole."""


DISK_IS_FULL = "the disk is full or fails: make room on it and do the same again; what was done before stays done"


def is_full_disk(error: BaseException) -> bool:
    """Whether an exception, or what caused it, says that the disk is full. Every library says it in its own way."""
    return any(
        (isinstance(each, OSError) and each.errno in _FULL) or says_full_disk(str(each)) for each in _chain(error)
    )


def says_full_disk(text: str) -> bool:
    """Whether an error's text says so."""
    return any(said in text for said in _FULL_SAYS)


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
