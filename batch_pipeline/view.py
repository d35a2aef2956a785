"""What the shell shows a person: plans, statuses and progress, as tables and bars; and JSON for programs."""

import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from batch_pipeline.operations.previewing import Preview
from batch_pipeline.progress import watched as watched_progress
from batch_pipeline.rules import reasons, steps
from batch_pipeline.templates import CHANNELS, Message, Template


def as_json(found: Any) -> str:
    """One JSON object; a ``Decimal`` stands as a number, whose shortest form is the decimal it was."""
    return json.dumps(found, default=_number, ensure_ascii=False, indent=2)


def _number(value: Any) -> float:
    if isinstance(value, Decimal):
        return float(value)
    raise TypeError(f"{type(value).__name__} has no place in JSON")


def plan(batch: str, plan_hash: str, figures: Mapping[str, Any], reports: Path) -> RenderableType:
    """A plan, as it is reviewed."""
    currency = figures["cost"]["currency"]
    hours = figures["fallback_after_hours"]
    reminders = figures.get("reminders")
    parts: list[RenderableType] = [
        Text(f"Plan of {batch}, {plan_hash[:12]}", style="bold"),
        Text(f"Message: {_message(figures['message_key'])}{_codes(figures.get('snomed', ()))}"),
        _table(
            "patients",
            {
                "lines of the file": figures["lines"],
                "  rejected": figures["rejected"],
                "  duplicates": figures["duplicates"],
                "patient list": figures["patient_list"],
                **_by_reason(figures, "  "),
                **{f"  recipients by {_PATHS[path]}": n for path, n in figures["recipients"].items()},
                "  of them held back": figures["held_back"],
                "  of them App without SMS fallback": figures["no_sms_fallback"],
                **{f"  looked up: {what}": n for what, n in figures.get("looked_up", {}).items()},
            },
        ),
        _table(
            f"cost, {currency}",
            {
                f"every App message read ({figures['fragments']['best']:,} SMS fragments)": figures["cost"]["best"],
                f"all fall back ({figures['fragments']['worst']:,} SMS fragments)": figures["cost"]["worst"],
                **_of_reminders(reminders),
            },
        ),
        Text(
            f"Sent in one wave when approved and dispatched; App messages unread after {hours:g} hours fall back to SMS."
            f" Finished at the latest {figures['finished_after_hours']:g} hours after sending."
        ),
        *([] if reminders is None else [Text(_when_reminded(reminders["days"]))]),
        Text(f"Providers: {', '.join(f'{_PATHS[path]} {name}' for path, name in figures['providers'].items())}"),
    ]
    for path, sample in figures["samples"].items():
        parts.append(Text(f"\nSample by {_PATHS[path]}, for a made-up patient", style="bold"))
        if "subject" in sample:
            parts.append(Text(f"Subject: {sample['subject']}"))
        parts.append(Text(sample["text"]))
    if (file := figures.get("attachment")) is not None:
        parts.append(Text("\nAttachment, reached by each patient's own link and date of birth", style="bold"))
        parts.append(Text(f"{file['name']}: {file['type']}, {file['bytes']:,} bytes, SHA-256 {file['sha256']}"))
        parts.append(Text(f"Look at it before you approve: {file['path']}"))
    if (booking := figures.get("booking")) is not None:
        parts.append(Text("\nSlots, booked by each patient's own link and date of birth", style="bold"))
        when = f", from {booking['first']} to {booking['last']}" if "first" in booking else ""
        parts.append(Text(f"{booking['name']}: {booking['slots']:,} slots with {booking['places']:,} places{when}"))
    parts += _list("Warnings", figures["warnings"], "yellow") + _list("Problems", figures["problems"], "red")
    parts.append(Text(f"\nNon-contactable patients: {reports / 'non_contactable.csv'}"))
    if not figures["problems"]:
        parts.append(Text(f"To approve it: batch-pipeline approve {batch} --by NAME --plan {plan_hash[:12]}"))
    return Group(*parts)


def _of_reminders(reminders: Mapping[str, Any] | None) -> dict[str, Any]:
    if reminders is None:
        return {}
    most = f"{reminders['messages']:,} messages, {reminders['fragments']:,} SMS fragments"
    return {f"and reminders, if nobody answers ({most})": reminders["cost"]}


def _when_reminded(days: Sequence[int]) -> str:
    if list(days) == list(range(days[0], days[-1] + 1)) and len(days) > 1:
        return f"Who hasn't sent the answers is reminded daily, on days {days[0]} to {days[-1]}, but not after a day with readings."
    return f"Who hasn't answered is reminded on day {' and '.join(map(str, days))}."


_PATHS = {"email": "email", "nhs_app": "NHS App", "sms": "SMS"}


def _message(key: str) -> str:
    """A message's key in words."""
    kind, _, name = key.partition(":")
    if kind != "template":
        return "words of its own"
    template, _, version = name.partition("@")
    return f"template {template}, version {version}"


def _codes(snomed: Sequence[str]) -> str:
    return f"; SNOMED CT {', '.join(snomed)}" if snomed else ""


def templates(found: Sequence[Template]) -> RenderableType:
    """Every template, a line each."""
    if not found:
        return Text("there are no templates yet")
    table = Table(box=None, padding=(0, 2, 0, 0))
    for name in ("name", "version", "type", "words of their own", "SNOMED CT"):
        table.add_column(name, no_wrap=name == "name", overflow="fold")
    for each in found:
        own = ", ".join(_PATHS[channel] for channel in each.bodies.given)
        table.add_row(each.name, each.version, each.message_type, own, ", ".join(each.snomed))
    return table


def template(one: Template, message: Message, fields: Sequence[str]) -> RenderableType:
    """A template as its file has it: its words, those of all channels and those of one alone."""
    own = {f"Words by {_PATHS[channel]}": words for channel, words in message.bodies.items()}
    others = [_PATHS[channel] for channel in CHANNELS if channel not in message.bodies]
    parts: list[RenderableType] = [
        Text(f"{one.name}, version {one.version} ({one.message_type}){_codes(one.snomed)}", style="bold"),
        Text(f"Fields: {', '.join(fields) or 'none'}"),
        *([Text(f"Subject: {one.subject}")] if one.subject else []),
    ]
    for title, words in {f"Words by {' and '.join(others)}": message.body, **own}.items():
        parts += [Text(f"\n{title}", style="bold"), Text(words)]
    return Group(*parts)


def previews(found: Sequence[Preview]) -> RenderableType:
    """A template for some patients; a text that is the same for several channels once."""
    parts: list[RenderableType] = []
    for each in found:
        parts.append(Text(f"Line {each.line}", style="bold"))
        if each.lacking:
            parts.append(Text(f"no value for {', '.join(f'{{{{ {name} }}}}' for name in each.lacking)}", style="red"))
        by_text: dict[str | None, list[str]] = {}
        for path, text in each.texts.items():
            by_text.setdefault(text, []).append(_PATHS[path])
        for text, channels in by_text.items():
            parts.append(Text(f"By {' and '.join(channels)}{_fragments(each) if 'SMS' in channels else ''}:"))
            if "email" in channels:
                parts.append(Text(f"Subject: {_or_nothing(each.subject)}"))
            parts.append(Text(f"{_or_nothing(text)}\n"))
    return Group(*parts)


def _or_nothing(text: str | None) -> str:
    return "(it can't be made for this patient)" if text is None else text


def _fragments(each: Preview) -> str:
    if each.fragments is None:
        return ""
    n = each.fragments.parts
    return f" ({n} SMS {'fragment' if n == 1 else 'fragments'})"


def _by_reason(found: Mapping[str, Any], indent: str) -> dict[str, int]:
    """Non-contactable patients by the label of their primary reason, in the order of the SPEC, zeros left out."""
    counts = ((reason.label, found["non_contactable"].get(reason.code, 0)) for reason in reasons.REASONS)
    return {indent + label: n for label, n in counts if n}


def _list(title: str, sentences: Sequence[str], style: str) -> list[RenderableType]:
    if not sentences:
        return []
    return [Text(f"\n{title}", style=f"bold {style}"), *(Text(f"- {sentence}") for sentence in sentences)]


def _table(title: str, rows: Mapping[str, Any]) -> Table:
    table = Table(
        show_header=False, title=title, title_justify="left", title_style="bold", box=None, padding=(0, 2, 0, 0)
    )
    table.add_column()
    table.add_column(justify="right")
    for name, value in rows.items():
        table.add_row(name, f"{value:,}" if isinstance(value, int) else str(value))
    return table


def status(found: Mapping[str, Any]) -> RenderableType:
    """One batch's figures, zeros left out where they say nothing."""
    flat = {name: value for name, value in found.items() if isinstance(value, int) and name != "lines"}
    reached = {f"recipients by {_PATHS[path]}": n for path, n in found["recipients"].items()}
    why = _by_reason(found, "")
    named = {name.replace("_", " "): value for name, value in flat.items() if value}
    return Group(
        Text(f"{found['batch']}: {_label(found)}", style="bold"),
        *([Text(_paused(found["paused"]), style="yellow")] if "paused" in found else []),
        _table("patients", {"lines of the file": found["lines"], **named}),
        _table("by path", reached),
        *([_table("non-contactable", why)] if why else []),
        *([_table("messages in the record", _of_record(found["record"]))] if "record" in found else []),
        *([_table("patients who answered", _of_answers(found["answers"]))] if "answers" in found else []),
        Text(f"cost so far: {found['cost']} {found['currency']}"),
    )


def _of_record(record: Mapping[str, int]) -> dict[str, int]:
    shown = {"written": record["written"], "not taken": record["refused"], "being written": record["at_work"]}
    return {name: count for name, count in shown.items() if count or name == "written"}


def _of_answers(answers: Mapping[str, int]) -> dict[str, int]:
    untold = "urgent, and nobody is told"
    named = ("completed", "in progress", "urgent", untold)
    return {name: n for name, n in zip(named, answers.values(), strict=True) if n or name == "completed"}


def _label(found: Mapping[str, Any]) -> str:
    return f"{found['status']} (paused)" if "paused" in found else str(found["status"])


def _paused(pause: Mapping[str, Any]) -> str:
    what = "all batches are paused" if pause["all"] else "paused"
    return f"{what} by {pause['by']} at {pause['at']}" + (f": {pause['because']}" if pause["because"] else "")


def statuses(found: Sequence[Mapping[str, Any]]) -> RenderableType:
    """Every batch, a line each."""
    if not found:
        return Text("no batch has been submitted")
    columns = ("batch", "status", "patient_list", "delivered", "emailed", "failed", "awaiting", "unconfirmed")
    table = Table(box=None, padding=(0, 2, 0, 0))
    for name in columns:  # the id stays whole: the next command needs it
        table.add_column(name.replace("_", " "), no_wrap=name == "batch", overflow="fold")
    for each in ({**one, "status": _label(one)} for one in found):
        table.add_row(*(f"{each[name]:,}" if isinstance(each[name], int) else str(each[name]) for name in columns))
    return table


def inboxes(found: Sequence[Mapping[str, Any]]) -> RenderableType:
    """The answers of every batch, a line each."""
    if not found:
        return Text("nothing has been answered")
    return _lines(("batch", "completed", "in progress", "urgent", "untold"), (each.values() for each in found))


def inbox(found: Mapping[str, Any], reports: Path) -> RenderableType:
    """One batch's answers, a line a patient, the urgent ones first. Names and answers are in the report alone."""
    patients = sorted(found["patients"], key=lambda each: (not each["untold"], not each["urgent"], each["line"]))
    rows = (
        (
            each["line"],
            each["state"],
            "urgent, nobody is told" if each["untold"] else "urgent" if each["urgent"] else "",
            each["changed_at"],
        )
        for each in patients
    )
    counts = f"{found['completed']:,} completed, {found['in_progress']:,} in progress, {found['urgent']:,} urgent"
    untold = f"batch-pipeline inbox {found['batch']} --seen --by NAME says that you have seen the urgent ones"
    return Group(
        Text(f"{found['batch']}: {counts}", style="bold"),
        *([_lines(("line", "state", "urgent", "latest change"), rows)] if patients else []),
        *([Text(untold, style="yellow")] if found["untold"] else []),
        Text(f"the answers: {reports / 'responses.csv'}"),
    )


def _lines(headings: Sequence[str], rows: Iterable[Iterable[Any]]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0))
    for name in headings:
        table.add_column(name, no_wrap=name == "batch", overflow="fold")
    for row in rows:
        table.add_row(*(f"{cell:,}" if isinstance(cell, int) else str(cell) for cell in row))
    return table


def one_line(found: Mapping[str, Any]) -> str:
    """Where a batch stands, in one sentence."""
    counts = ", ".join(
        f"{found[name]:,} {name.replace('_', ' ')}"
        for name in ("delivered", "emailed", "failed", "awaiting", "unconfirmed", "fallback_sent", "reminders")
        if found[name]
    )
    return f"{found['batch']}: {_label(found)}" + (f" ({counts})" if counts else "")


def bookings(found: Sequence[Mapping[str, Any]], *, each_line: bool) -> RenderableType:
    """What patients booked, a line a batch; ``each_line``: and a line each patient."""
    if not found:
        return Text("no batch offers slots to book")
    parts: list[RenderableType] = []
    for one in found:
        said = ", ".join(f"{one[answer]:,} {words}" for answer, words in _ANSWERS.items() if one[answer])
        left = f"{one['free']:,} of {one['places']:,} places of {one['slots']} are free"
        parts.append(Text(f"{one['batch']}: {said or 'nobody can book yet'}; {left}"))
        if each_line and one["lines"]:
            parts.append(_booking_lines(one["lines"]))
    return Group(*parts)


_ANSWERS = {"booked": "booked", "declined": "declined", "cancelled": "cancelled", "none": "not answered"}


def _booking_lines(lines: Sequence[Mapping[str, Any]]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0))
    for name in ("line", "answer", "slot", "start", "with", "place"):
        table.add_column(name, overflow="fold")
    for each in lines:
        told = (each[name] or "" for name in ("slot", "starts_at", "clinician", "place"))
        table.add_row(str(each["line"]), _ANSWERS[each["answer"]], *told)
    return table


def unconfirmed(batch: str, found: Sequence[Any]) -> RenderableType:
    """A batch's unconfirmed messages, a line each."""
    if not found:
        return Text(f"{batch}: nothing is unconfirmed")
    table = Table(box=None, padding=(0, 2, 0, 0))
    for name in ("line", "message", "by", "provider", "begun at"):
        table.add_column(name)
    for each in found:
        when = each.begun_at.isoformat(timespec="seconds")
        table.add_row(str(each.line), steps.label(each.step), _PATHS[each.channel], each.provider, when)
    return Group(
        Text(f"{batch}: {len(found):,} messages that may or may not have been sent", style="bold"),
        table,
        Text(f"Ask the provider, then: batch-pipeline resolve {batch} --line N --sent (or --not-sent) --by NAME"),
    )


def reconciled(done: Any, asked: Any | None) -> Iterator[str]:
    """What `reconcile` did, and what a person has to look at: sentences."""
    yield f"put back: {done.messages:,} messages in {done.chunks:,} chunks, for the next dispatch to finish"
    for each in done.apart:
        yield (
            f"{each.batch}, line {each.line}: the {steps.label(each.step)} was perhaps sent, and is planned otherwise by now: "
            f"unconfirmed; see `batch-pipeline resolve {each.batch}`"
        )
    for each in done.kept:
        yield f"{each.batch}, line {each.line}: the {steps.label(each.step)} was perhaps sent twice, also in chunk {each.chunk}"
    for batch, count in done.waiting.items():
        yield (
            f"{batch}: {count:,} chunks were sent, and the ledger has no outbox of it: submit the same files, approve the plan, run `batch-pipeline dispatch "
            f"{batch}`, which writes the outbox and sends nothing, and reconcile again"
            if asked is None
            else f"{batch}: {count:,} chunks that were sent are left out: never submit this batch again"
        )
    yield from done.faults
    if asked is not None:
        yield f"asked of their providers: {asked.accepted:,} messages were sent, {asked.unsent:,} were not"
        for batch, count in asked.unconfirmed.items():
            yield f"{batch}: {count:,} messages nobody can tell of: unconfirmed; see `batch-pipeline resolve {batch}`"


def checked(found: Mapping[str, Any]) -> RenderableType:
    """What `check` found in a file."""
    parts: list[RenderableType] = [Text(f"{found['file']}: understood", style="bold")]
    for title, rows in found.items():
        if isinstance(rows, Mapping) and rows:
            parts.append(_table(title.replace("_", " "), rows))
    return Group(*parts)


@contextmanager
def watched(what: str) -> Iterator[None]:
    """Shows how far the work inside has come, on a terminal; elsewhere nothing."""
    if not sys.stderr.isatty():
        yield
        return
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bars:
        task = bars.add_task(what, total=None)

        def listener(_: str, done: int, total: int) -> None:
            bars.update(task, completed=done, total=total)

        with watched_progress(listener):
            yield
