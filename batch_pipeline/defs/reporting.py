"""The last stage: the reports that people read, and the metrics that analysts query."""

from collections.abc import Iterator
from pathlib import Path

import dagster as dg

from batch_pipeline.defs import jobs, tables
from batch_pipeline.defs.due import requests
from batch_pipeline.defs.partitions import BATCHES, OWNERS
from batch_pipeline.defs.refusals import refusals
from batch_pipeline.defs.resources import ClockResource, HouseResource
from batch_pipeline.operations import reporting
from batch_pipeline.planning import tables as schemas
from batch_pipeline.planning.duck import scan

GROUP = "reporting"


@dg.asset(
    group_name=GROUP,
    kinds={"csv"},
    owners=OWNERS,
    partitions_def=BATCHES,
    ins={name: dg.AssetIn() for name in ("non_contactable", "rejected_rows", "duplicates", "pds_details")},
    metadata={"dagster/column_schema": tables.columns(reporting.NON_CONTACTABLE_CSV)},
)
def non_contactable_report(
    context: dg.AssetExecutionContext,
    house: HouseResource,
    non_contactable: Path,
    rejected_rows: Path,
    duplicates: Path,
    pds_details: Path,
) -> dg.MaterializeResult:
    """``non_contactable.csv`` and ``rejected_rows.csv``: who can't be reached, which lines were refused, and the remedy."""
    written = reporting.write_planning_reports(
        house.open(), context.partition_key, non_contactable, rejected_rows, duplicates, pds_details
    )
    return dg.MaterializeResult(metadata={path.stem: dg.MetadataValue.path(str(path)) for path in written})


@dg.multi_asset(
    deps=["receipts", "fallbacks", "reminders"],
    outs={"delivery_metrics": tables.out(schemas.DELIVERY_METRICS, GROUP)},
    check_specs=[tables.fits_spec(schemas.DELIVERY_METRICS)],
    partitions_def=BATCHES,
)
def published_metrics(
    context: dg.AssetExecutionContext, house: HouseResource
) -> Iterator[dg.AssetCheckResult | dg.Output[Path]]:
    """What became of the batch's messages, and ``metrics.duckdb`` published anew for analysts."""
    home = house.open()
    with refusals(), home.staging() as folder, home.duck() as con:
        table = reporting.measure(home, con, context.partition_key, folder / "delivery_metrics")
        yield tables.fits(con, schemas.DELIVERY_METRICS, table)
        yield dg.Output(table, "delivery_metrics")
    published = reporting.publish_metrics(home)
    context.log.info("metrics published as %s", published.name)


@dg.multi_asset(
    ins={"patients": dg.AssetIn()},
    deps=["outbox"],
    outs={"bookings": tables.out(schemas.BOOKINGS, GROUP)},
    check_specs=[tables.fits_spec(schemas.BOOKINGS)],
    partitions_def=BATCHES,
)
def reported_bookings(
    context: dg.AssetExecutionContext, house: HouseResource, clock: ClockResource, patients: Path
) -> Iterator[dg.AssetCheckResult | dg.Output[Path]]:
    """``bookings.csv`` (who booked what) and ``slots.csv`` (what is left), as things stand."""
    home, batch = house.open(), context.partition_key
    with refusals(), home.staging() as folder, home.duck() as con:
        table = folder / "bookings"
        made_of = reporting.bookings_table(home, con, batch, table)
        yield tables.fits(con, schemas.BOOKINGS, table)
        answers = con.sql(f"SELECT answer, count(*) FROM {scan(table)} GROUP BY ALL ORDER BY ALL").fetchall()
        written = reporting.write_booking_reports(home, con, batch, table, patients, made_of, clock.now())
        yield dg.Output(
            table,
            "bookings",
            metadata={
                **{path.stem: dg.MetadataValue.path(str(path)) for path in written},
                "by_answer": tables.markdown(("answer", "patients"), dict(answers)),
            },
        )


@dg.sensor(
    job=jobs.bookings,
    minimum_interval_seconds=60,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="What patients booked is reported.",
)
def bookings_sensor(context: dg.SensorEvaluationContext, house: HouseResource) -> dg.SensorResult:
    """A batch is due when one of its patients has chosen something that isn't in its report yet."""
    return requests(context, jobs.bookings, reporting.with_new_bookings(house.open()))


@dg.asset(
    group_name=GROUP,
    kinds={"csv"},
    owners=OWNERS,
    partitions_def=BATCHES,
    ins={"channel_plan": dg.AssetIn(), "patients": dg.AssetIn()},
    deps=["delivery_metrics"],
    metadata={"dagster/column_schema": tables.columns(reporting.OUTCOMES_CSV)},
)
def batch_report(
    context: dg.AssetExecutionContext, house: HouseResource, clock: ClockResource, channel_plan: Path, patients: Path
) -> dg.MaterializeResult:
    """``outcomes.csv`` (what became of every recipient) and ``follow_up.csv`` (whom a person should look after)."""
    home = house.open()
    with refusals():
        written, figures = reporting.write_outcome_reports(
            home, context.partition_key, channel_plan, patients, clock.now()
        )
    return dg.MaterializeResult(
        metadata={
            **{path.stem: dg.MetadataValue.path(str(path)) for path in written},
            "figures": tables.markdown(
                ("figure", "patients"), {name: value for name, value in figures.items() if isinstance(value, int)}
            ),
            "status": figures["status"],
        }
    )


@dg.sensor(
    job=jobs.report,
    minimum_interval_seconds=60,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="A batch in which everything has ended gets its final report.",
)
def report_sensor(context: dg.SensorEvaluationContext, house: HouseResource) -> dg.SensorResult:
    """A batch is due when every patient has ended and no final report has been made since."""
    return requests(context, jobs.report, reporting.ended_unreported(house.open()))
