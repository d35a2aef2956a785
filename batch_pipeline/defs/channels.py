"""The third stage: every recipient's one message, and the plan that a person reviews and approves."""

import json
from collections.abc import Iterator
from dataclasses import astuple
from pathlib import Path
from typing import Any

import dagster as dg

from batch_pipeline.defs import tables
from batch_pipeline.defs.partitions import BATCHES
from batch_pipeline.defs.refusals import refusals
from batch_pipeline.defs.resources import ClockResource, HouseResource
from batch_pipeline.operations.review import draw_up_plan, message_of, record
from batch_pipeline.planning import tables as schemas
from batch_pipeline.planning.channels import assign
from batch_pipeline.planning.duck import noted
from batch_pipeline.planning.plan import PlanFiles, Snapshot, as_table

GROUP = "channels"
NO_ADDRESS = "no_recipient_without_an_address"
NOBODY_TWICE = "nobody_twice"


@dg.multi_asset(
    ins={"recipients": dg.AssetIn(), "patients": dg.AssetIn(), "cohort": dg.AssetIn()},
    outs={"channel_plan": tables.out(schemas.CHANNEL_PLAN, GROUP)},
    check_specs=[
        dg.AssetCheckSpec(
            NO_ADDRESS, asset="channel_plan", blocking=True, description="Every recipient has what their path needs."
        ),
        dg.AssetCheckSpec(
            NOBODY_TWICE, asset="channel_plan", blocking=True, description="No patient is in the plan twice."
        ),
        tables.fits_spec(schemas.CHANNEL_PLAN),
    ],
    partitions_def=BATCHES,
)
def assigned_channels(
    context: dg.AssetExecutionContext,
    house: HouseResource,
    clock: ClockResource,
    recipients: Path,
    patients: Path,
    cohort: Path,
) -> Iterator[dg.AssetCheckResult | dg.Output[Path]]:
    """One message for every recipient: by which path, to which address, by which rule, and what it takes."""
    home, now = house.open(), clock.now()
    with home.staging() as folder, home.duck() as con:
        with refusals():
            submitted = home.submitted(context.partition_key)
            message = message_of(con, submitted, cohort)
            snapshot = Snapshot.of(recipients)
        plan = folder / "channel_plan"
        with refusals(), tables.made_from(submitted, recipients, patients, cohort), noted(snapshot=snapshot.as_note()):
            assign(
                con,
                recipients,
                patients,
                cohort,
                plan,
                message=message,
                snapshot=snapshot.as_of,
                already_had=home.already_had(submitted, now),
                hasher=home.hasher,
            )
        found = schemas.addressing(con, plan)
        yield dg.AssetCheckResult(
            asset_key="channel_plan",
            check_name=NO_ADDRESS,
            passed=found.without_address == 0,
            metadata={"without_address": found.without_address},
        )
        yield dg.AssetCheckResult(
            asset_key="channel_plan",
            check_name=NOBODY_TWICE,
            passed=found.twice == 0,
            metadata={"patients_twice": found.twice},
        )
        yield tables.fits(con, schemas.CHANNEL_PLAN, plan)
        yield dg.Output(
            plan, "channel_plan", metadata={"by_rule": tables.markdown(("rule", "patients"), found.by_rule)}
        )


@dg.multi_asset(
    ins={
        name: dg.AssetIn()
        for name in (
            "cohort",
            "patients",
            "rejected_rows",
            "duplicates",
            "pds_details",
            "non_contactable",
            "channel_plan",
        )
    },
    outs={"batch_plan": tables.out(schemas.BATCH_PLAN, "review")},
    check_specs=[tables.fits_spec(schemas.BATCH_PLAN)],
    partitions_def=BATCHES,
)
def reviewed_plan(  # noqa: PLR0913, PLR0917 - one argument a table
    context: dg.AssetExecutionContext,
    house: HouseResource,
    clock: ClockResource,
    cohort: Path,
    patients: Path,
    rejected_rows: Path,
    duplicates: Path,
    pds_details: Path,
    non_contactable: Path,
    channel_plan: Path,
) -> Iterator[dg.AssetCheckResult | dg.Output[Path]]:
    """Counts, prices and checks the plan, records it in the ledger, and approves it where the batch file says auto."""
    files = PlanFiles(cohort, patients, rejected_rows, duplicates, pds_details, non_contactable, channel_plan)
    home, now = house.open(), clock.now()
    with refusals(), home.staging() as folder, home.duck() as con:
        submitted = home.submitted(context.partition_key)
        with tables.made_from(submitted, *astuple(files)):
            figures = draw_up_plan(con, home, submitted, files, now)
            written = as_table(con, figures, folder / "batch_plan")
        yield tables.fits(con, schemas.BATCH_PLAN, written)
        plan = record(home, submitted, figures, now)
        yield dg.Output(written, "batch_plan", metadata=_shown(plan, figures))


def _shown(plan: str, figures: dict[str, Any]) -> dict[str, Any]:
    funnel = {
        "lines of the file": figures["lines"],
        "rejected": figures["rejected"],
        "duplicates": figures["duplicates"],
        "patient list": figures["patient_list"],
        "non-contactable": sum(figures["non_contactable"].values()),
        **{f"recipients by {path}": n for path, n in figures["recipients"].items()},
        "held back": figures["held_back"],
        **{f"looked up: {what.replace('_', ' ')}": n for what, n in figures["looked_up"].items()},
    }
    return {
        "plan_hash": plan,
        "funnel": tables.markdown(("", "patients"), funnel),
        "non_contactable": tables.markdown(("primary reason", "patients"), figures["non_contactable"]),
        "cost": tables.markdown(
            (f"cost ({figures['cost']['currency']})", ""),
            {"every App message read": figures["cost"]["best"], "all fall back": figures["cost"]["worst"]},
        ),
        "sms_fragments_worst": figures["fragments"]["worst"],
        "warnings": dg.MetadataValue.md("\n".join(f"- {line}" for line in figures["warnings"]) or "none"),
        "problems": dg.MetadataValue.md("\n".join(f"- {line}" for line in figures["problems"]) or "none"),
        "providers": dg.MetadataValue.text(json.dumps(figures["providers"])),
        "message": dg.MetadataValue.text(figures["message_key"]),
        "snomed": dg.MetadataValue.text(", ".join(figures.get("snomed", ())) or "none"),
        "recipients_total": sum(figures["recipients"].values()),
        **_attachment(figures.get("attachment")),
    }


def _attachment(file: dict[str, Any] | None) -> dict[str, Any]:
    if file is None:
        return {}
    return {"attachment": dg.MetadataValue.path(file["path"]), "attachment_sha256": file["sha256"]}
