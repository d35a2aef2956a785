"""Reminders: what goes again to patients who had a questionnaire and haven't answered, each once."""

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
from batch_pipeline.rules.reminders import AGAINST
from batch_pipeline.rules.steps import REMINDERS


@dg.multi_asset(
    deps=["receipts", "fallbacks"],
    outs={"reminders": tables.out(schemas.REMINDERS, "reminders")},
    check_specs=[tables.fits_spec(schemas.REMINDERS)],
    partitions_def=BATCHES,
)
def reminder_messages(
    context: dg.AssetExecutionContext, house: HouseResource, clock: ClockResource
) -> Iterator[dg.AssetCheckResult | dg.Output[Path]]:
    """Who hasn't answered is reminded on the days of the plan; whoever can't or needn't be is left out, with the reason."""
    home, batch = house.open(), context.partition_key
    with refusals():
        swept, sent = dispatching.remind(home, batch, clock.now)
    yield from tables.attempts(
        home,
        batch,
        schemas.REMINDERS,
        steps=REMINDERS,
        metadata={
            "queued": swept.queued,
            "left_out": tables.markdown(
                ("because", "patients"),
                {words: swept.against[code] for code, words in AGAINST.items() if code in swept.against},
            ),
            "accepted": sum(each.accepted for each in sent),
        },
    )


@dg.sensor(
    job=jobs.reminders,
    minimum_interval_seconds=60,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Patients who haven't answered by the day of a reminder get it, once.",
)
def reminders_sensor(
    context: dg.SensorEvaluationContext, house: HouseResource, clock: ClockResource
) -> dg.SensorResult:
    """A batch is due when a reminder's moment has come, or one was queued and not sent."""
    return requests(context, jobs.reminders, dispatching.with_reminders_due(house.open(), clock.now()))
