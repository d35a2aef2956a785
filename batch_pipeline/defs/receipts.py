"""The fifth stage: what the providers say became of each message."""

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


@dg.multi_asset(
    deps=["dispatch"],
    outs={"receipts": tables.out(schemas.RECEIPTS, "receipts")},
    check_specs=[tables.fits_spec(schemas.RECEIPTS)],
    partitions_def=BATCHES,
)
def folded_receipts(
    context: dg.AssetExecutionContext, house: HouseResource, clock: ClockResource
) -> Iterator[dg.AssetCheckResult | dg.Output[Path]]:
    """Every receipt that waits is folded into its attempt; their order and repeats make no difference."""
    home, batch = house.open(), context.partition_key
    with refusals():
        folded = dispatching.collect(home, batch, clock.now())
    yield from tables.attempts(
        home, batch, schemas.RECEIPTS, metadata={"folded": folded.folded, "of_unknown_reference": folded.unknown}
    )


@dg.sensor(
    job=jobs.receipts,
    minimum_interval_seconds=30,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Receipts that wait are folded into their batches; texts nobody spoke of in time are timed out.",
)
def receipts_sensor(context: dg.SensorEvaluationContext, house: HouseResource, clock: ClockResource) -> dg.SensorResult:
    """A batch is due when one of its receipts waits, or one of its texts has been silent for too long."""
    return requests(context, jobs.receipts, dispatching.with_news(house.open(), clock.now()))
