"""A form's items as the templates draw them: plain words and field names, nothing to be decided any more."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from batch_pipeline.questionnaires.form import DATE_PARTS, Item, Kind, Question, Section, Words

_DRAWN: Mapping[Kind, str] = MappingProxyType(
    {
        "boolean": "radios",
        "choice": "radios",
        "date": "date",
        "decimal": "line",
        "integer": "line",
        "string": "line",
        "text": "text",
    }
)
_KEYBOARDS: Mapping[str, str] = MappingProxyType({"integer": "numeric", "decimal": "decimal"})
_WIDTHS: Mapping[str, int] = MappingProxyType({"day": 2, "month": 2, "year": 4})
Block = dict[str, Any]


def blocks(
    items: Sequence[Item], values: Mapping[str, str], errors: Mapping[str, str], *, level: int = 2
) -> list[Block]:
    """What stands on a page, in order. ``values``: what the fields hold; ``level``: of the sections' headings."""
    return [_block(item, values, errors, level) for item in items]


def _block(item: Item, values: Mapping[str, str], errors: Mapping[str, str], level: int) -> Block:
    if isinstance(item, Section):
        inner = blocks(item.items, values, errors, level=level + 1)
        return {"drawn": "section", "id": item.link_id, "title": item.title, "level": level, "blocks": inner}
    if isinstance(item, Words):
        return {"drawn": "words", "text": item.text}
    return _question(item, values, errors)


def _question(question: Question, values: Mapping[str, str], errors: Mapping[str, str]) -> Block:
    drawn = "checkboxes" if question.several else _DRAWN[question.kind]
    return {
        "drawn": drawn,
        "name": question.link_id,
        "label": question.label,
        "hint": question.hint,
        "error": errors.get(question.fields[0]),
        "unit": question.unit.label if question.unit else "",
        "value": values.get(question.link_id, ""),
        "keyboard": _KEYBOARDS.get(question.kind),
        "options": _options(question, values) if drawn in ("radios", "checkboxes") else (),
        "parts": _parts(question, values) if drawn == "date" else (),
    }


def _options(question: Question, values: Mapping[str, str]) -> list[Block]:
    """Each with its field's name and value. The first has the question's own id: an error leads to it."""
    if question.kind == "boolean":
        offered = [(question.link_id, "yes", "Yes"), (question.link_id, "no", "No")]
    elif question.several:
        names = question.fields[1:]
        offered = [(name, "yes", choice.label) for name, choice in zip(names, question.choices, strict=True)]
    else:
        offered = [(question.link_id, choice.value, choice.label) for choice in question.choices]
    return [
        {
            "id": question.link_id if n == 1 else f"{question.link_id}-{n}",
            "name": name,
            "value": value,
            "label": label,
            "chosen": values.get(name) == value,
        }
        for n, (name, value, label) in enumerate(offered, 1)
    ]


def _parts(question: Question, values: Mapping[str, str]) -> list[Block]:
    return [
        {"id": name, "label": part.capitalize(), "width": _WIDTHS[part], "value": values.get(name, "")}
        for part, name in zip(DATE_PARTS, question.fields, strict=True)
    ]
