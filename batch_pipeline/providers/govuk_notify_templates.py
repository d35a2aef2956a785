"""Whether a template at GOV.UK Notify is one that our messages fit: else each of them would be refused, one by one."""

import re
from collections.abc import Collection, Mapping
from typing import Any

_MOST_SHOWN = 5
_LONGEST_SHOWN = 40


def fault(template: Mapping[str, Any], channel: str, fields: Collection[str], setting: str) -> str | None:
    """What is wrong with a template, and the mend; ``None``: it takes these fields and no other.

    ``KeyError`` and the like for what isn't a template. Its text is not ours to show: only its fields are.
    """
    kind, found = str(template["type"]), list(template["personalisation"].keys())
    if kind != channel:
        known = kind if kind in {"sms", "email", "letter"} else "other"
        return f"{setting} names a template of type {known}: name one of type {channel}"
    if {_key(field) for field in found} == {_key(field) for field in fields}:
        return None
    has = f"has {_shown(found)}" if found else "has no fields"
    return f"{setting}: the template {has} and must have {_shown(sorted(fields))} alone: mend it at GOV.UK Notify"


def _key(field: str) -> str:
    """As GOV.UK Notify compares fields: without regard to case, spaces, hyphens and underscores."""
    return re.sub(r"[\s_-]", "", field).casefold()


def _shown(fields: Collection[str]) -> str:
    shown = [re.sub(r"[^\w .-]", "?", field)[:_LONGEST_SHOWN] for field in fields]
    return " ".join(f"(({field}))" for field in shown[:_MOST_SHOWN]) + (" …" if len(shown) > _MOST_SHOWN else "")
