"""What a provider's failure codes say of the patient, beyond the one message (PROVIDERS.md 1, SPEC 2.9)."""

from collections.abc import Mapping
from typing import Literal

Mark = Literal["deceased", "exit_coded", "invalidated"]

MARKS: Mapping[str, Mark] = {
    "PDSV_0008": "invalidated",
    "PDSV_0110": "exit_coded",
    "PDSV_0111": "deceased",  # informally
    "PDSV_0112": "deceased",  # formally
}
"""NHS Notify's codes by their ends: it prefixes them with the part of it that found out."""


def mark_of(failure_code: str | None) -> Mark | None:
    """What to remember of a patient whose message failed with this code. Unknown codes say nothing."""
    if failure_code is None:
        return None
    return next((mark for end, mark in MARKS.items() if failure_code.strip().upper().endswith(end)), None)
