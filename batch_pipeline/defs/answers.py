"""What patients answer: the inbox of a batch, its ``responses.csv``, and alerts to the practice."""

from collections.abc import Iterator
from pathlib import Path

import dagster as dg

from batch_pipeline.defs import jobs, tables
from batch_pipeline.defs.due import requests
from batch_pipeline.defs.partitions import BATCHES
from batch_pipeline.defs.refusals import refusals
from batch_pipeline.defs.resources import ClockResource, HouseResource
from batch_pipeline.operations import answering
from batch_pipeline.planning import tables as schemas

TOLD = "urgent_answers_are_told"


@dg.multi_asset(
    ins={"patients": dg.AssetIn()},
    deps=["dispatch"],
    outs={"inbox": tables.out(schemas.INBOX, "reporting")},
    check_specs=[
        tables.fits_spec(schemas.INBOX),
        dg.AssetCheckSpec(
            TOLD,
            asset="inbox",
            description="The practice has been told of every answer that can't wait, or a person has seen it.",
        ),
    ],
    partitions_def=BATCHES,
)
def collected_answers(
    context: dg.AssetExecutionContext, house: HouseResource, clock: ClockResource, patients: Path
) -> Iterator[dg.AssetCheckResult | dg.Output[Path]]:
    """Tells the practice of what can't wait, and writes what patients have answered so far."""
    home, batch = house.open(), context.partition_key
    with refusals():
        told = answering.tell(home, batch, clock.now())
        with home.staging() as folder, home.duck() as con:
            made = answering.make_inbox(home, batch, patients, folder)
            yield tables.fits(con, schemas.INBOX, made.table)
            yield dg.AssetCheckResult(
                asset_key="inbox",
                check_name=TOLD,
                passed=not made.counted.untold,
                metadata={"patients": made.counted.untold},
                description=None if told.because is None else f"nobody is told: {told.because}",
            )
            csv = {} if made.csv is None else {"responses": dg.MetadataValue.path(str(made.csv))}
            counts = {name: n for name, n in made.counted._asdict().items() if isinstance(n, int)}
            yield dg.Output(made.table, "inbox", metadata={**counts, "alerts_told": told.told, **csv})


@dg.sensor(
    job=jobs.inbox,
    minimum_interval_seconds=15,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="What patients answered comes to the inbox, and the practice is told of what can't wait.",
)
def answers_sensor(context: dg.SensorEvaluationContext, house: HouseResource, clock: ClockResource) -> dg.SensorResult:
    """A batch is due when something was answered since its inbox was made, or the practice is to be told of something."""
    return requests(context, jobs.inbox, answering.with_answers(house.open(), clock.now()))
