"""The fourth stage: the approved plan becomes the outbox, and the outbox is sent, each message once."""

from collections.abc import Iterator
from pathlib import Path

import dagster as dg

from batch_pipeline.defs import jobs, tables
from batch_pipeline.defs.due import requests
from batch_pipeline.defs.partitions import BATCHES
from batch_pipeline.defs.refusals import refusals
from batch_pipeline.defs.resources import ClockResource, HouseResource
from batch_pipeline.operations import dispatching
from batch_pipeline.planning import tables as schemas
from batch_pipeline.rules.steps import PRIMARY

GROUP = "dispatch"


@dg.multi_asset(
    ins={"channel_plan": dg.AssetIn(), "patients": dg.AssetIn(), "cohort": dg.AssetIn()},
    deps=["batch_plan"],
    outs={"outbox": tables.out(schemas.OUTBOX, GROUP)},
    check_specs=[tables.fits_spec(schemas.OUTBOX)],
    partitions_def=BATCHES,
)
def written_outbox(
    context: dg.AssetExecutionContext,
    house: HouseResource,
    clock: ClockResource,
    channel_plan: Path,
    patients: Path,
    cohort: Path,
) -> Iterator[dg.AssetCheckResult | dg.Output[Path]]:
    """The approved plan's messages in the ledger: written once; later plans add or move only what isn't begun."""
    home, batch = house.open(), context.partition_key
    with refusals(), tables.made_from(home.submitted(batch), channel_plan, patients, cohort):
        written = dispatching.write_outbox(home, batch, channel_plan, patients, cohort, clock.now())
    yield from tables.attempts(
        home,
        batch,
        schemas.OUTBOX,
        steps=[PRIMARY],
        metadata={
            "added": written.added,
            "moved": written.moved,
            "removed": written.removed,
            "unchanged": written.unchanged,
        },
    )


@dg.multi_asset(
    deps=["outbox"],
    outs={"dispatch": tables.out(schemas.DISPATCH, GROUP)},
    check_specs=[tables.fits_spec(schemas.DISPATCH)],
    partitions_def=BATCHES,
)
def sent_messages(
    context: dg.AssetExecutionContext, house: HouseResource, clock: ClockResource
) -> Iterator[dg.AssetCheckResult | dg.Output[Path]]:
    """Sends what is queued: claim, write, call, write. Run again, it sends nothing again."""
    home, batch = house.open(), context.partition_key
    with refusals():
        done = dispatching.send(home, batch, "primary", clock.now)
    yield from tables.attempts(
        home, batch, schemas.DISPATCH, steps=[PRIMARY], metadata={"accepted": done.accepted, "refused": done.refused}
    )


@dg.sensor(
    job=jobs.dispatch,
    minimum_interval_seconds=15,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="A batch that is approved, or was left half sent, is sent.",
)
def dispatch_sensor(context: dg.SensorEvaluationContext, house: HouseResource) -> dg.SensorResult:
    """What is approved and not yet wholly sent is due now."""
    return requests(context, jobs.dispatch, dispatching.ready_to_send(house.open()))
