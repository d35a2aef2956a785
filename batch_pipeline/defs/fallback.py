"""The sixth stage: App messages nobody read in time, or that failed, fall back to an SMS, once."""

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
from batch_pipeline.rules.steps import FALLBACK


@dg.multi_asset(
    deps=["receipts"],
    outs={"fallbacks": tables.out(schemas.FALLBACKS, "fallback")},
    check_specs=[tables.fits_spec(schemas.FALLBACKS)],
    partitions_def=BATCHES,
)
def fallback_messages(
    context: dg.AssetExecutionContext, house: HouseResource, clock: ClockResource
) -> Iterator[dg.AssetCheckResult | dg.Output[Path]]:
    """What is due falls back; what can't (no number, opted out, deceased, …) ends here and goes to follow-up."""
    home, batch = house.open(), context.partition_key
    with refusals():
        swept, sent = dispatching.fall_back(home, batch, clock.now)
    yield from tables.attempts(
        home,
        batch,
        schemas.FALLBACKS,
        steps=[FALLBACK],
        metadata={
            "queued": swept.queued,
            "could_not_go": tables.markdown(("because", "patients"), swept.against),
            "accepted": sent.accepted,
        },
    )


@dg.sensor(
    job=jobs.fallback,
    minimum_interval_seconds=30,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="App messages that are due to fall back, and fallbacks left unsent, are swept.",
)
def fallback_sensor(context: dg.SensorEvaluationContext, house: HouseResource, clock: ClockResource) -> dg.SensorResult:
    """A batch is due when a fallback clock has run out, or a fallback was queued and not sent."""
    return requests(context, jobs.fallback, dispatching.with_fallbacks_due(house.open(), clock.now()))
