"""A template filled in for a few lines of a cohort, before there is a batch (SPEC 2.6). Keeps nothing, sends nothing."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import duckdb

from batch_pipeline.errors import Refused
from batch_pipeline.house import House
from batch_pipeline.ingest.reader import open_cohort
from batch_pipeline.operations.attaching import link_in_template
from batch_pipeline.operations.review import worded
from batch_pipeline.operations.submission import read_into
from batch_pipeline.planning.duck import scan
from batch_pipeline.planning.message import Message
from batch_pipeline.planning.patients import PatientFiles, sort_lines
from batch_pipeline.planning.plan import fields_unknown
from batch_pipeline.rules import links
from batch_pipeline.rules.conditional_text import MissingValue, Writer
from batch_pipeline.rules.fragments import Fragments, downgrade, sms_fragments
from batch_pipeline.settings import Workspace, load_workspaces
from batch_pipeline.templates import fields_of, load_template

_LETTERS = re.compile(r"\w")


def masked(value: str) -> str:
    """A patient's value as it may stand where others read it: how long it is, and nothing of it (SPEC 3)."""
    return _LETTERS.sub("•", value)


@dataclass(frozen=True, slots=True)
class Preview:
    """A message as one line's patient would get it. ``repr`` shows the line only: the rest is personal."""

    line: int
    subject: str | None
    """None, as a text is, where a field that it needs has no value."""
    texts: Mapping[str, str | None]
    fragments: Fragments | None
    lacking: tuple[str, ...]

    def __repr__(self) -> str:
        return f"Preview(line={self.line})"


def preview(
    house: House,
    name: str,
    cohort: Path,
    now: datetime,
    *,
    workspace_id: str | None,
    lines: Sequence[int],
    most: int,
    written: Writer,
) -> list[Preview]:
    """The template for these lines of a cohort, or for its first ``most`` patients. ``written``: how values are shown."""
    house.home.require()
    workspace = _workspace(house, workspace_id)
    template, message = load_template(house.home, name)
    with house.staging() as folder, house.duck() as con:
        reader = open_cohort(cohort, label=cohort.name, max_bytes=house.settings.max_cohort_bytes)
        table, _ = read_into(reader, folder)
        files = PatientFiles(folder / "patients", folder / "rejected_rows", folder / "duplicates")
        today = now.astimezone(workspace.zone).date()
        sort_lines(con, table, files, today=today, needs_date_of_birth=False)
        columns = reader.shape.columns
        # A simple message need not carry a link, and a column of that name stands in its text then.
        theirs = template.message_type == "simple" and links.FIELD in columns
        link = None if theirs else link_in_template(name, fields_of(message), workspace)
        words = worded(message, workspace, columns, link)
        if words.unknown_fields:
            raise Refused(f"template {name}, {cohort.name}: {fields_unknown(words)}")
        rows = _rows(con, words, files.patients, table, lines, most)
    if not_there := sorted(set(lines) - {line for line, _ in rows}):
        raise Refused(
            f"{cohort.name}: line {not_there[0]} isn't a patient's: it is empty, rejected or a duplicate; `batch-pipeline "
            "check` says what the file holds"
        )
    return [_preview(line, words, values, written) for line, values in rows]


def _workspace(house: House, workspace_id: str | None) -> Workspace:
    if workspace_id is not None:
        return house.workspace(workspace_id)
    every = load_workspaces(house.home)
    if len(every) != 1:
        there = ", ".join(each.id for each in every) or "none yet"
        raise Refused(f"--workspace ID: say which workspace sends; there are {there}")
    return every[0]


def _rows(
    con: duckdb.DuckDBPyConnection, words: Message, patients: Path, cohort: Path, lines: Sequence[int], most: int
) -> list[tuple[int, dict[str, Any]]]:
    chosen = f"line IN ({', '.join(map(str, lines))})" if lines else "true"
    limit = "" if lines else f"LIMIT {most}"
    found = con.sql(f"""
        SELECT line {words.values_sql()}
        FROM (SELECT line FROM {scan(patients)} WHERE {chosen} ORDER BY line {limit}) {words.joins(patients, cohort)}
        ORDER BY line
    """).fetchall()
    return [(line, dict(zip(words.known_fields, values, strict=True))) for line, *values in found]


def _preview(line: int, words: Message, values: Mapping[str, str | None], written: Writer) -> Preview:
    lacking: dict[str, None] = {}

    def rendered(role: str, as_written: Writer) -> str | None:
        text = words.subject if role == "subject" else words.bodies[role]
        try:
            return text.render(values, as_written)
        except MissingValue as missing:
            lacking.update(dict.fromkeys(missing.fields))
            return None

    sms = rendered("sms", str)
    texts = {path: rendered(path, written) for path in words.bodies}
    shown_sms = texts["sms"]
    return Preview(
        line,
        rendered("subject", written),
        {**texts, "sms": None if shown_sms is None else downgrade(shown_sms)},
        None if sms is None else sms_fragments(downgrade(sms)),
        tuple(lacking),
    )
