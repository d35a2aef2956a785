"""What patients answered, as the inbox and ``responses.csv`` have it: a row a patient, a column a question."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from itertools import islice
from typing import Any
from zoneinfo import ZoneInfo

import pyarrow as pa

from batch_pipeline.ledger.alerts import Alert
from batch_pipeline.ledger.responses import Answered
from batch_pipeline.questionnaires import blood_pressure
from batch_pipeline.questionnaires.answers import computed, from_json, plain
from batch_pipeline.questionnaires.form import FORMS_AT_HAND, Answers, Form, Page, Question
from batch_pipeline.reports.columns import RESPONSES, Column, Report

_ROWS = 2_000
_TIME = pa.timestamp("us", "UTC")
INBOX = pa.schema(
    [
        ("line", pa.int32()),
        ("state", pa.string()),
        ("answers", pa.int32()),
        ("urgent", pa.bool_()),
        ("untold", pa.bool_()),
        *((name, _TIME) for name in ("first_at", "changed_at", "completed_at")),
    ]
)
_KNOWN = pa.schema(
    [
        ("line", pa.int32()),
        *((name, pa.string()) for name in ("nhs_number", "state", "urgent", "noticed", "told_by")),
        *((name, _TIME) for name in ("first_at", "changed_at", "completed_at", "told_at")),
    ]
)
_AVERAGE = ("average_systolic", "average_diastolic", "average_readings")


def report_of(form: Form) -> Report:
    """``responses.csv`` of a questionnaire: what stands in each, then a column for each of its questions."""
    averages = tuple(
        Column(name, heading, meaning)
        for name, heading, meaning in (
            ("average_systolic", "Average top number", "NICE's average, without the readings of the first day"),
            ("average_diastolic", "Average bottom number", "The same"),
            ("average_readings", "Readings in the average", "12 or more, on 3 days or more, make one that is used"),
        )
        if blood_pressure.places(form)
    )
    asked = tuple(
        Column(_name(n), _heading(page, question), "The answer") for n, (page, question) in enumerate(_asked(form))
    )
    return Report(RESPONSES.file, RESPONSES.title, (*RESPONSES.columns, *averages, *asked))


@lru_cache(maxsize=FORMS_AT_HAND)
def _asked(form: Form) -> tuple[tuple[Page | None, Question], ...]:
    """What has a column, with its page; what is worked out has none."""
    return (
        *((None, question) for question in form.computed),
        *((page, question) for page in form.pages for question in page.questions),
    )


def _name(n: int) -> str:
    return f"question_{n}"


def _heading(page: Page | None, question: Question) -> str:
    where = f"{page.title}: " if page is not None and page.title else ""
    unit = f" ({question.unit.label})" if question.unit else ""
    return f"{where}{question.name}{unit}"


@dataclass(frozen=True, slots=True)
class Read:
    """A batch's answers as tables: what anybody may know of them, and all of it."""

    inbox: pa.Table
    answers: pa.Table
    version: int
    """The sum of their versions: what these tables were made from."""


def read(form: Form, found: Iterable[Answered], raised: Sequence[Alert], zone: ZoneInfo) -> Read:
    """Reads a batch's answers, some patients at a time. ``raised``: its alerts."""
    of_line: dict[int, list[Alert]] = {}
    for alert in raised:
        of_line.setdefault(alert.line, []).append(alert)
    schema = _schema(form)
    inbox, answers, version = [INBOX.empty_table()], [schema.empty_table()], 0
    rows = iter(found)
    while some := list(islice(rows, _ROWS)):
        known = [_row(form, each, of_line.get(each.line, []), zone) for each in some]
        answers.append(pa.Table.from_pylist([row for row, _ in known], schema=schema))
        inbox.append(pa.Table.from_pylist([row for _, row in known], schema=INBOX))
        version += sum(each.version for each in some)
    return Read(pa.concat_tables(inbox), pa.concat_tables(answers), version)


def _schema(form: Form) -> pa.Schema:
    kinds = {"integer": pa.int64()}
    asked = [(_name(n), kinds.get(question.kind, pa.string())) for n, (_, question) in enumerate(_asked(form))]
    return pa.schema([*_KNOWN, *((name, pa.int64()) for name in _AVERAGE), *asked])


def _row(form: Form, each: Answered, raised: Sequence[Alert], zone: ZoneInfo) -> tuple[dict[str, Any], dict[str, Any]]:
    given: Answers = {} if each.answers is None else from_json(form, json.loads(each.answers))
    held = {**form.in_force(given), **computed(form, given)}
    noticed = blood_pressure.noticed(form, given, each.changed_at.astimezone(zone).date())
    state = "in_progress" if each.completed_at is None else "completed"
    told = _told(raised)
    times = {"first_at": each.first_at, "changed_at": each.changed_at, "completed_at": each.completed_at}
    asked = {
        _name(n): (value if question.kind == "integer" else plain(question, value) or None)
        for n, (_, question) in enumerate(_asked(form))
        if (value := held.get(question.link_id)) is not None
    }
    whole = {
        "line": each.line,
        "nhs_number": each.nhs_number,
        "state": state.replace("_", " "),
        "urgent": "yes" if raised else "no",
        "noticed": "; ".join(f"{one.words} ({one.band.label})" for one in noticed) or None,
        **times,
        **told,
        **_average(form, given),
        **asked,
    }
    untold = bool(raised) and told["told_at"] is None
    counts = {"answers": len(form.in_force(given)), "urgent": bool(raised), "untold": untold}
    return whole, {"line": each.line, "state": state, **counts, **times}


def _told(raised: Sequence[Alert]) -> dict[str, datetime | str | None]:
    """When the practice had the last of them; nothing, while there is one that it hasn't."""
    at = [alert.told_at for alert in raised if alert.told_at is not None]
    if not raised or len(at) < len(raised):
        return {"told_at": None, "told_by": None}
    return {"told_at": max(at), "told_by": "; ".join(sorted({str(alert.told_by) for alert in raised}))}


def _average(form: Form, given: Answers) -> Mapping[str, int]:
    average = blood_pressure.average(form, given)
    if average is None:
        return {}
    return dict(zip(_AVERAGE, (average.systolic, average.diastolic, average.readings), strict=True))
