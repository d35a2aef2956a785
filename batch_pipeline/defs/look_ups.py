"""What is looked up of patients besides their file: who has the NHS App, once a day and practice; details from PDS."""

from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import dagster as dg

from batch_pipeline.defs import jobs, tables
from batch_pipeline.defs.partitions import BATCHES, OWNERS, PRACTICE_DAYS, PRACTICES, newest_app_accounts, practice_days
from batch_pipeline.defs.refusals import failure, refusals
from batch_pipeline.defs.resources import ClockResource, HouseResource
from batch_pipeline.house import House
from batch_pipeline.operations import app_accounts, pds_details
from batch_pipeline.planning import tables as schemas
from batch_pipeline.rules import policy

GROUP = "look_ups"


@dg.asset(
    group_name=GROUP,
    description=schemas.NHS_APP_ACCOUNTS.description,
    kinds={"parquet", "pandera"},
    owners=OWNERS,
    partitions_def=PRACTICE_DAYS,
    backfill_policy=dg.BackfillPolicy.single_run(),  # all days at once are one refusal, and not a run each
    metadata={"dagster/column_schema": tables.columns(schemas.NHS_APP_ACCOUNTS)},
    check_specs=[tables.fits_spec(schemas.NHS_APP_ACCOUNTS)],
    freshness_policy=dg.FreshnessPolicy.time_window(
        fail_window=policy.SNAPSHOT_UNKNOWN_AFTER, warn_window=policy.SNAPSHOT_OLD_AFTER
    ),
)
def nhs_app_accounts(
    context: dg.AssetExecutionContext, house: HouseResource, clock: ClockResource
) -> Iterator[dg.AssetCheckResult | dg.MaterializeResult]:
    """Asks NHS Notify for all pages; a part of them is no snapshot, and the last one stays."""
    days, practice = practice_days(context.partition_keys)
    home = house.open()
    with refusals(), home.staging() as folder, home.duck() as con:
        table = folder / "nhs_app_accounts"
        day = app_accounts.fetch(home, con, practice, days, table, clock.now())
        looked_at = tables.fits(con, schemas.NHS_APP_ACCOUNTS, table)
        yield looked_at
        if not looked_at.passed:
            raise failure(f"NHS App accounts of {practice}: they don't fit their table; the last snapshot stays")
        place, deleted = app_accounts.keep(home, table, practice, day)
    accounts, notified = app_accounts.counted(home, practice, day)
    yield dg.MaterializeResult(
        metadata={
            "path": dg.MetadataValue.path(str(place)),
            "dagster/row_count": accounts,
            "notifications_on": notified,
            "old_days_deleted": deleted,
        }
    )


@dg.multi_asset(
    ins={"patients": dg.AssetIn()},
    deps=[newest_app_accounts()],
    outs={"pds_details": tables.out(schemas.PDS_DETAILS, GROUP)},
    check_specs=[tables.fits_spec(schemas.PDS_DETAILS)],
    partitions_def=BATCHES,
)
def looked_up_patients(
    context: dg.AssetExecutionContext, house: HouseResource, clock: ClockResource, patients: Path
) -> Iterator[dg.AssetCheckResult | dg.Output[Path]]:
    """Asks PDS for those patients alone whose path needs a detail that the file lacks.

    Materialised again, it asks only for those of whom nothing was learnt, or whose answer is no longer fresh.
    """
    home = house.open()
    with refusals():
        submitted = home.submitted(context.partition_key)
    with refusals(), home.staging() as folder, home.duck() as con, tables.made_from(submitted, patients):
        table = folder / "pds_details"
        counted = pds_details.look_up(home, con, submitted, patients, table, clock.now)
        yield tables.fits(con, schemas.PDS_DETAILS, table)
        yield dg.Output(table, "pds_details", metadata={"look_ups": tables.markdown(("look-ups", "patients"), counted)})


@dg.schedule(
    job=jobs.app_accounts,
    cron_schedule="15 5-20/3 * * *",
    execution_timezone=str(app_accounts.ZONE),
    default_status=dg.DefaultScheduleStatus.RUNNING,
    description="Each morning the NHS App accounts of every practice that fetches them; later in the day what is missing.",
)
def nhs_app_accounts_schedule(
    context: dg.ScheduleEvaluationContext, house: HouseResource
) -> list[dg.RunRequest] | dg.SkipReason:
    """Asks once a day and practice; a day that failed is tried again every three hours."""
    requests, faults = due(house.open(), context.instance, context.scheduled_execution_time)
    for sentence in faults:
        context.log.warning(sentence)
    return requests or dg.SkipReason("; ".join(faults) or "today's NHS App accounts are there, or nobody fetches any")


def due(house: House, instance: dg.DagsterInstance, now: datetime) -> tuple[list[dg.RunRequest], list[str]]:
    """A run for each practice whose accounts of today are wanted and not there; and the faults of workspaces' files."""
    missing, faults = app_accounts.not_fetched(house, now)
    if missing:
        instance.add_dynamic_partitions(str(PRACTICES.name), missing)
    day = app_accounts.day_of(now).isoformat()
    return [
        dg.RunRequest(
            run_key=f"{code}:{now.isoformat()}", partition_key=dg.MultiPartitionKey({"day": day, "ods_code": code})
        )
        for code in missing
    ], faults
