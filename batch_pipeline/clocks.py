"""The one clock that a person can't set."""

import time


def seconds_since_boot() -> float:
    """Runs on while the machine is suspended, where there is such a clock (on macOS ``monotonic`` has to do)."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))
