"""The seventh stage: what was sent is saved to patients' records, each message once."""

from collections.abc import Iterator
from pathlib import Path

import dagster as dg

from batch_pipeline.defs import jobs, tables
from batch_pipeline.defs.due import requests
from batch_pipeline.defs.partitions import BATCHES
from batch_pipeline.defs.refusals import refusals
from batch_pipeline.defs.resources import ClockResource, HouseResource
from batch_pipeline.operations import reporting, saving
from batch_pipeline.planning import tables as schemas


@dg.multi_asset(
    deps=["receipts", "fallbacks", "reminders"],
    outs={"records": tables.out(schemas.RECORDS, "records")},
    check_specs=[tables.fits_spec(schemas.RECORDS)],
    partitions_def=BATCHES,
)
def saved_messages(
    context: dg.AssetExecutionContext, house: HouseResource, clock: ClockResource
) -> Iterator[dg.AssetCheckResult | dg.Output[Path]]:
    """Writes what is certain by now of each message to the record, for some minutes; the next run goes on from there."""
    home, batch = house.open(), context.partition_key
    with refusals():
        done = saving.save(home, batch, clock.now)
    with home.staging() as folder, home.duck() as con:
        path = reporting.record_table(home, con, batch, folder / "records")
        yield tables.fits(con, schemas.RECORDS, path)
        yield dg.Output(
            path,
            "records",
            metadata={"written": done.written, "refused": done.refused, "chunks_of_other_runs": done.elsewhere},
        )


@dg.sensor(
    job=jobs.records,
    minimum_interval_seconds=60,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="What was sent, and is certain, is saved to the record.",
)
def records_sensor(context: dg.SensorEvaluationContext, house: HouseResource, clock: ClockResource) -> dg.SensorResult:
    """A batch is due when the entry of one of its messages is certain, or a run left entries behind."""
    return requests(context, jobs.records, saving.with_entries_due(house.open(), clock.now()))
