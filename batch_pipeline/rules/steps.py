"""The steps of a batch: in each a patient is sent one message at most (SPEC 2.7, 2.9, 2.12)."""

PRIMARY = "primary"
"""The one message."""
FALLBACK = "fallback"
"""The SMS that an App message fell back to."""
_REMINDER = "reminder_"
_LAST_DAY = 9

WORDS = "primary | fallback | reminder_DAY"


def reminder_of(day: int) -> str:
    """The step of the reminder that is due so many days (1 to 9) after the message."""
    if not 1 <= day <= _LAST_DAY:
        raise ValueError(f"a reminder on day {day}")
    return f"{_REMINDER}{day}"


REMINDERS: tuple[str, ...] = tuple(reminder_of(day) for day in range(1, _LAST_DAY + 1))
"""Every one that there may be."""


def day_of(step: str) -> int | None:
    """After how many days a step's reminder is due; ``None`` for a step of another kind."""
    return int(step.removeprefix(_REMINDER)) if step.startswith(_REMINDER) else None


def label(step: str) -> str:
    """A message of the step, in words."""
    day = day_of(step)
    if day is not None:
        return f"reminder of day {day}"
    return {PRIMARY: "first message", FALLBACK: "text that followed"}.get(step, step)


def labels(step: str) -> str:
    """Its messages."""
    day = day_of(step)
    if day is not None:
        return f"reminders of day {day}"
    return {PRIMARY: "first messages", FALLBACK: "texts that followed"}.get(step, step)
