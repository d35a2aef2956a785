"""Review and approval: drawing a batch's plan up, showing it, and recording who approved which (SPEC 2.5)."""

import json
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import duckdb

from batch_pipeline.errors import Refused
from batch_pipeline.house import House, Submitted, content_of
from batch_pipeline.ledger import batches
from batch_pipeline.operations import attaching, booking
from batch_pipeline.planning import plan as planning
from batch_pipeline.planning.duck import scan
from batch_pipeline.planning.message import Message
from batch_pipeline.providers.accounts import TAKES_MARKDOWN
from batch_pipeline.questionnaires import blood_pressure
from batch_pipeline.rules.conditional_text import as_it_is
from batch_pipeline.rules.markdown import escaped
from batch_pipeline.settings import Workspace, not_yet
from batch_pipeline.templates import Message as Words

AUTO = "auto (as the batch file says)"
"""Who approved a plan under ``approval: auto``."""


def message_of(con: duckdb.DuckDBPyConnection, submitted: Submitted, cohort: Path) -> Message:
    """The batch's message, able to name every column of its cohort."""
    columns = [row[0] for row in con.sql(f"DESCRIBE FROM {scan(cohort)}").fetchall()]
    link, reminds = attaching.link_of(submitted), submitted.file.message.reminds
    return worded(submitted.message, submitted.workspace, columns, link, reminds=reminds)


def worded(
    message: Words, workspace: Workspace, cohort_columns: Sequence[str], link: str | None, *, reminds: bool = False
) -> Message:
    """A message as a workspace sends it, able to name these columns; ``link`` is the address with its token to come."""
    return Message.of(
        message.body,
        message.subject or f"Message from {workspace.name}",
        workspace.name,
        cohort_columns,
        bodies=message.bodies,
        link=link,
        email_written=escaped if workspace.providers.email in TAKES_MARKDOWN else as_it_is,
        reminds=reminds,
    )


def sample_of(house: House, submitted: Submitted, channel: str) -> tuple[str, str]:
    """Subject and body as queued for a made-up patient. ``Refused`` when the message names what nobody has."""
    with house.duck() as con:
        message = message_of(con, submitted, house.table("cohort", submitted.row.batch))
        if message.unknown_fields:
            raise Refused(planning.fields_unknown(message))
        return message.queued_sample(channel)


def draw_up_plan(
    con: duckdb.DuckDBPyConnection, house: House, submitted: Submitted, files: planning.PlanFiles, now: datetime
) -> dict[str, Any]:
    """The figures of the plan that these tables make."""
    workspace, file = submitted.workspace, submitted.file
    snapshot = _with_savings(con, house, submitted, files, now)
    return planning.draw_up(
        con,
        files,
        sender=planning.Sender(
            workspace=workspace.id,
            message_type=file.message.type,
            questionnaire=file.message.questionnaire,
            message_key=submitted.message.key,
            snomed=submitted.snomed,
            providers=workspace.providers.names,
            prices=workspace.prices.as_prices(),
            problems=not_yet(file),
            attachment=attaching.shown(house, submitted),
            booking=booking.shown(house, submitted),
            warnings=_nobody_is_told(house, submitted),
        ),
        message=message_of(con, submitted, files.cohort),
        snapshot=snapshot,
        now=now,
    )


def _nobody_is_told(house: House, submitted: Submitted) -> list[str]:
    """That nobody at the practice would be told of a reading that can't wait."""
    form = house.form(submitted)
    if submitted.workspace.alerts is not None or form is None or not blood_pressure.places(form):
        return []
    told = (
        f"it asks for blood pressure, and workspace {submitted.workspace.id} names nobody to be told of an urgent reading: "
        f"add alerts: {{email: …}} to its file, or look at `batch-pipeline inbox {submitted.row.batch}` all the time"
    )
    return [told]


def _with_savings(
    con: duckdb.DuckDBPyConnection, house: House, submitted: Submitted, files: planning.PlanFiles, now: datetime
) -> planning.Snapshot:
    """The snapshot that the plan was made with, whatever the workspace has by now, and who goes by SMS because of it.

    Because it is too old, or because a self-book message minds an email address.
    """
    workspace = submitted.workspace
    snapshot = planning.Snapshot.of(files.channel_plan)
    _, accounts = house.snapshot(workspace, now)
    self_book = submitted.file.message.type == "self_book"
    if snapshot.state == "none":
        return snapshot
    con.register("accounts", accounts)
    con.register("opted_out_of_app", house.opt_outs(workspace, now))
    on_the_app = f"""
        SELECT count(*), coalesce(sum(r.fragments), 0)::BIGINT
        FROM {scan(files.channel_plan)} r JOIN {scan(files.patients)} p USING (line)
        SEMI JOIN accounts a ON r.nhs_number = a.nhs_number AND a.notifications_enabled
        ANTI JOIN opted_out_of_app o ON r.nhs_number = o.nhs_number AND o.channel = 'nhs_app'
        WHERE r.path = 'sms' AND NOT r.held_back
    """
    if snapshot.state == "unknown":
        email = "p.email IS NULL" if self_book and not workspace.self_book_ignores_email else "true"
        return replace(snapshot, lost=planning.Instead(*con.sql(f"{on_the_app} AND {email}").fetchall()[0]))
    if self_book and not workspace.self_book_ignores_email:
        return replace(
            snapshot, switch=planning.Instead(*con.sql(f"{on_the_app} AND p.email IS NOT NULL").fetchall()[0])
        )
    return snapshot


def record(house: House, submitted: Submitted, figures: dict[str, Any], now: datetime) -> str:
    """Makes this the batch's standing plan, approved at once where the batch file says so; gives its hash."""
    plan = planning.plan_hash(figures, spec_sha256=submitted.row.spec_sha256, cohort_sha256=submitted.row.cohort_sha256)
    with house.ledger.write() as connection:
        row = batches.get(connection, submitted.row.batch, lock=True)
        if content_of(row) != submitted.content:
            raise Refused(f"{row.batch} was submitted anew while this was planned: plan it again, from the cohort on")
        batches.record_plan(connection, row.batch, plan, figures, now)
        if row.approval == "auto" and not figures["problems"] and not figures["needs_person"]:
            batches.mark_reviewed(connection, row.batch, plan, now)
            batches.approve(connection, row.batch, AUTO, plan, now)
    return plan


def standing(house: House, batch: str) -> tuple[str, dict[str, Any]]:
    """The standing plan's hash and figures; ``Refused`` when there is none."""
    with house.ledger.read() as connection:
        plan = batches.current_plan(connection, batch)
    if plan is None:
        raise Refused(f"{batch} has no plan yet: submit it first")
    return plan.plan_hash, json.loads(plan.figures)


def shown(house: House, batch: str, now: datetime) -> tuple[str, dict[str, Any]]:
    """The standing plan, from now on the one that was last reviewed."""
    plan, figures = standing(house, batch)
    with house.ledger.write() as connection:
        batches.mark_reviewed(connection, batch, plan, now)
    return plan, figures


def approve(house: House, batch: str, by: str, plan: str | None, now: datetime) -> batches.Approval:
    """Records the approval of the standing plan; gives it, or the one it has already.

    ``Refused`` when the plan can't be sent as it is, has changed since it was last shown, or isn't ``plan``.
    """
    submitted = house.submitted(batch)
    snapshot, _ = house.snapshot(submitted.workspace, now)
    with house.ledger.write() as connection:
        approval = batches.approve(connection, batch, by, plan, now)
        figures = json.loads(batches.plan(connection, batch, approval.plan_hash).figures)
        if figures["problems"]:
            raise Refused(f"{batch} can't be approved: {figures['problems'][0]}")
        if snapshot.state == "unknown" != figures["snapshot"]["state"]:
            raise Refused(
                f"{batch}: the NHS App snapshot of {snapshot.as_of} has become too old since the plan was made: refresh it "
                "and submit the batch again"
            )
        return approval
