"""From "this is due for that batch" to run requests, for the sensors of all stages."""

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

import dagster as dg

from batch_pipeline.defs.jobs import UnresolvedJob
from batch_pipeline.defs.partitions import BATCHES

AT_WORK = (
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
)
ALONE_FOR = timedelta(minutes=10)
"""A run that was killed may stand as started for ever. After this long another is sent after it: that several work
on one batch does no harm, that none does would."""


def requests(context: dg.SensorEvaluationContext, job: UnresolvedJob, due: Iterable[str]) -> dg.SensorResult:
    """A run of ``job`` for each due batch that no run is at work on.

    Each batch's partition is asked for again: one that was deleted in the UI would stop this sensor for every batch.
    """
    busy = _busy(context.instance, job.name)
    free = [batch for batch in due if batch not in busy]
    return dg.SensorResult(
        run_requests=[dg.RunRequest(partition_key=batch) for batch in free],
        dynamic_partitions_requests=[BATCHES.build_add_request(free)] if free else [],
        skip_reason=None if free else "nothing is due",
    )


def _busy(instance: dg.DagsterInstance, job: str) -> set[str]:
    """Batches that a run of the job was begun for and may still be at work on; one that just failed rests as well."""
    since = datetime.now(UTC) - ALONE_FOR
    records = instance.get_run_records(dg.RunsFilter(job_name=job, created_after=since))
    return {
        record.dagster_run.tags.get("dagster/partition", "")
        for record in records
        if record.dagster_run.status in (*AT_WORK, dg.DagsterRunStatus.FAILURE)
    }
