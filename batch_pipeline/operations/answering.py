"""What patients have answered: the inbox and ``responses.csv``, and telling the practice of what can't wait."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from batch_pipeline.errors import Refused
from batch_pipeline.house import House
from batch_pipeline.ledger import alerts, batches, responses
from batch_pipeline.operations import restoring
from batch_pipeline.operations.controlling import require_name
from batch_pipeline.planning.duck import scan
from batch_pipeline.planning.tables import INBOX
from batch_pipeline.reports import lists
from batch_pipeline.reports import responses as reading
from batch_pipeline.reports.csv_files import write_csv
from batch_pipeline.sending.alerting import Notice, NotTold


@dataclass(frozen=True, slots=True)
class Told:
    """What became of a batch's alerts."""

    told: int = 0
    """Of which the practice was told now."""
    untold: int = 0
    because: str | None = None
    """Why the practice isn't told of those; nothing personal."""


def tell(house: House, batch: str, now: datetime) -> Told:
    """Tells the practice of a batch's answers that can't wait and of which it isn't told yet."""
    with house.ledger.read() as connection:
        waiting = alerts.untold(connection, batch)
    if not waiting:
        return Told()
    ids = [alert.id for alert in waiting]
    with house.ledger.write() as connection:
        alerts.note_try(connection, ids, now)
    workspace = house.submitted(batch).workspace
    lines = sorted({alert.line for alert in waiting})
    try:
        with house.messenger(workspace) as messenger:
            if messenger is None:
                mend = f"workspace {workspace.id} names nobody to be told: add alerts: {{email: …}} to its file"
                return Told(untold=len(ids), because=mend)
            messenger.tell(Notice(workspace.id, batch, ids, lines), now)
            by = messenger.name
    except (NotTold, Refused) as why:
        return Told(untold=len(ids), because=str(why))
    except Exception as fault:  # noqa: BLE001 - the practice has its list all the same, and is told the next time
        return Told(untold=len(ids), because=f"a fault of ours: {type(fault).__name__}")
    with house.ledger.write() as connection:
        alerts.note_told(connection, ids, by, now)
    return Told(told=len(ids))


@dataclass(frozen=True, slots=True)
class Inbox:
    """What was made of a batch's answers."""

    table: Path
    csv: Path | None
    """``responses.csv``; none of a batch that asks nothing."""
    counted: responses.Counted


def make_inbox(house: House, batch: str, patients: Path, folder: Path) -> Inbox:
    """Writes the inbox's table into ``folder``, and ``responses.csv``, as the answers are now."""
    submitted = house.submitted(batch)
    form = house.form(submitted)
    table = folder / str(INBOX.name)
    if form is None:
        _write(reading.INBOX.empty_table(), table)
        return Inbox(table, None, responses.Counted(batch, 0, 0, 0, 0))
    with house.ledger.read() as connection:  # one state of the ledger
        before = batches.get(connection, batch).inbox_version
        raised = alerts.of_batch(connection, batch)
        found = reading.read(form, responses.of_batch(connection, batch), raised, submitted.workspace.zone)
        counted = _counted(responses.counted(connection, batch), batch)
    _write(found.inbox, table)
    report = reading.report_of(form)
    path = house.home.reports / batch / report.file
    with house.duck() as con:
        con.register("given_answers", found.answers)
        zone = submitted.workspace.timezone
        write_csv(lists.responses(con, "given_answers", patients=scan(patients), zone=zone), path, report.columns)
    with house.ledger.write() as connection:
        responses.mark_inbox(connection, batch, found.version, before)
    return Inbox(table, path, counted)


def _write(rows: pa.Table, path: Path) -> None:
    pq.write_table(rows, path)
    path.chmod(0o600)


def _counted(found: Sequence[responses.Counted], batch: str) -> responses.Counted:
    return found[0] if found else responses.Counted(batch, 0, 0, 0, 0)


def with_answers(house: House, now: datetime) -> list[str]:
    """Batches whose inbox is to be made anew, or with something to tell the practice, which it can be told."""
    with house.ledger.read() as connection:
        due = dict.fromkeys(responses.with_news(connection))
        waiting = alerts.to_be_told(connection, now)
    due |= dict.fromkeys(batch for batch, workspace in waiting if _names_somebody(house, workspace))
    return list(due)


def _names_somebody(house: House, workspace: str) -> bool:
    try:
        return house.workspace(workspace).alerts is not None
    except Refused:  # a faulty workspace file is told of by whoever needs it
        return False


def seen(house: House, batch: str, by: str, now: datetime) -> list[int]:
    """Notes that a person has seen a batch's answers that can't wait; gives the lines of those nobody was told of."""
    require_name(by)
    with house.ledger.write() as connection:
        lines = alerts.note_seen(connection, batch, by, now)
        if lines:
            responses.forget_inbox(connection, batch)
    restoring.note_decision(house)
    return lines


def inboxes(house: House) -> list[dict[str, Any]]:
    """How far the patients of every batch are that has answers. Nothing personal."""
    with house.ledger.read() as connection:
        return [counted._asdict() for counted in responses.counted(connection)]


def inbox(house: House, batch: str) -> dict[str, Any]:
    """The same of one batch, with each patient's line. Nothing personal. ``Refused`` for one that asks nothing."""
    submitted = house.submitted(batch)
    if submitted.file.message.questionnaire is None:
        raise Refused(f"batch {batch} asks patients nothing: its message has no questionnaire")
    with house.ledger.read() as connection:
        batches.get(connection, batch)
        counted = _counted(responses.counted(connection, batch), batch)
        raised = alerts.of_batch(connection, batch)
        found = list(responses.of_batch(connection, batch))
    urgent = {alert.line for alert in raised}
    untold = {alert.line for alert in raised if alert.told_at is None}
    return {
        **counted._asdict(),
        "patients": [
            {
                "line": each.line,
                "state": "in progress" if each.completed_at is None else "completed",
                "urgent": each.line in urgent,
                "untold": each.line in untold,
                "changed_at": each.changed_at.isoformat(timespec="seconds"),
            }
            for each in found
        ],
    }
