"""Review and approval: drawing a batch's plan up, showing it, and recording who approved which (SPEC 2.5)."""

import json
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import duckdb

from batch_pipeline.errors import Refused
from batch_pipeline.house import House, Submitted
from batch_pipeline.ledger import batches
from batch_pipeline.planning import plan as planning
from batch_pipeline.planning.duck import scan
from batch_pipeline.planning.message import Message
from batch_pipeline.rules import paths
from batch_pipeline.settings import not_yet

AUTO = "auto (as the batch file says)"
"""Who approved a plan under ``approval: auto``."""


def message_of(con: duckdb.DuckDBPyConnection, submitted: Submitted, cohort: Path) -> Message:
    """The batch's message, able to name every column of its cohort."""
    columns = [row[0] for row in con.sql(f"DESCRIBE FROM {scan(cohort)}").fetchall()]
    text = submitted.message
    subject = text.subject or f"Message from {submitted.workspace.name}"
    return Message.of(text.body, subject, submitted.workspace.name, columns)


def sample_of(house: House, submitted: Submitted) -> tuple[str, str]:
    """Subject and body, rendered for a made-up patient. ``Refused`` when the message names what nobody has."""
    with house.duck() as con:
        message = message_of(con, submitted, house.table("cohort", submitted.row.batch))
        if message.unknown_fields:
            raise Refused(f"the message names {message.unknown_fields[0]}, and the cohort has no such column")
        return message.sample()


def draw_up_plan(
    con: duckdb.DuckDBPyConnection, house: House, submitted: Submitted, files: planning.PlanFiles, now: datetime
) -> dict[str, Any]:
    """The figures of the plan that these tables make."""
    workspace, file = submitted.workspace, submitted.file
    snapshot, accounts = house.snapshot(workspace, now)
    if snapshot.state == "unknown" and workspace.nation in paths.APP_NATIONS:
        con.register("accounts", accounts)
        known = con.sql(f"""
            SELECT count(*) FROM {scan(files.channel_plan)} r SEMI JOIN accounts a
            ON r.nhs_number = a.nhs_number AND a.notifications_enabled WHERE r.path = 'sms'
        """).fetchall()[0][0]
        snapshot = replace(snapshot, accounts_if_known=known)
    return planning.draw_up(
        con,
        files,
        sender=planning.Sender(
            workspace=workspace.id,
            message_type=file.message.type,
            questionnaire=file.message.questionnaire,
            message_key=submitted.message.key,
            save_to_record=file.save_to_record,
            providers=house.provider_names(workspace),
            prices=workspace.prices.as_prices(),
            problems=not_yet(file),
        ),
        message=message_of(con, submitted, files.cohort),
        snapshot=snapshot,
        now=now,
    )


def record(house: House, submitted: Submitted, figures: dict[str, Any], now: datetime) -> str:
    """Makes this the batch's standing plan, approved at once where the batch file says so; gives its hash."""
    row = submitted.row
    plan = planning.plan_hash(figures, spec_sha256=row.spec_sha256, cohort_sha256=row.cohort_sha256)
    with house.ledger.write() as connection:
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


def approve(house: House, batch: str, by: str, plan: str | None, now: datetime) -> str:
    """Records the approval of the standing plan; gives its hash.

    ``Refused`` when the plan can't be sent as it is, has changed since it was last shown, or isn't ``plan``.
    """
    standing_plan, figures = standing(house, batch)
    if figures["problems"]:
        raise Refused(f"{batch} can't be approved: {figures['problems'][0]}")
    with house.ledger.write() as connection:
        batches.approve(connection, batch, by, plan, now)
    return standing_plan
