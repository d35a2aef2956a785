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
        heard = dispatching.collect(home, batch, clock.now())
    counts = {"folded": heard.folded.folded, "of_unknown_reference": heard.folded.unknown}
    counts["news_that_could_not_be_read"] = heard.unread_news
    if heard.other_mail is not None:
        counts["mails_that_are_no_bounces"] = heard.other_mail
    yield from tables.attempts(home, batch, schemas.RECEIPTS, metadata=counts)


@dg.sensor(
    job=jobs.receipts,
    minimum_interval_seconds=30,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Receipts that wait are folded into their batches; texts nobody spoke of in time are timed out.",
)
def receipts_sensor(context: dg.SensorEvaluationContext, house: HouseResource, clock: ClockResource) -> dg.SensorResult:
    """A batch is due when a receipt waits for it, also in a mailbox, or one of its texts has been silent too long."""
    return requests(context, jobs.receipts, dispatching.with_news(house.open(), clock.now()))
