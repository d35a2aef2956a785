"""Runs Dagster jobs from the shell, on the home's own instance, so that what the shell did stands in the UI."""

import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import suppress
from datetime import date, datetime
from typing import Any

import dagster as dg

from batch_pipeline.defs.partitions import BATCHES, PRACTICES
from batch_pipeline.defs.refusals import SENTENCE
from batch_pipeline.errors import DISK_IS_FULL, Refused, RunFailed, says_full_disk
from batch_pipeline.home import Home
from batch_pipeline.house import House
from batch_pipeline.ledger import batches


class Runner:
    """The jobs of one home."""

    def __init__(self, home: Home) -> None:
        home.require()
        self._home = home
        os.environ["BATCH_PIPELINE_HOME"] = str(home.root)
        os.environ["DAGSTER_HOME"] = str(home.dagster)
        warnings.filterwarnings("ignore", module="dagster")
        from batch_pipeline.definitions import defs  # noqa: PLC0415 - it reads the two variables

        self._defs = defs()
        self.instance = dg.DagsterInstance.get()
        """The home's own: what the UI shows."""

    def run(self, job: str, batch: str, at: datetime, ops: Mapping[str, Any] | None = None) -> str:
        """Runs a job for a batch to its end, in this process; gives the run's id.

        ``Refused`` with the sentence of the asset that refused; ``RunFailed`` for anything else that failed.
        """
        new = not self.instance.has_dynamic_partition(str(BATCHES.name), batch)
        if new:
            self.instance.add_dynamic_partitions(str(BATCHES.name), [batch])
        try:
            return self._run(job, batch, at, ops)
        except Refused:
            if new and not self._is_registered(batch):
                with suppress(Exception):
                    self.instance.delete_dynamic_partition(str(BATCHES.name), batch)
            raise

    def look_up(self, job: str, practice: str, day: date, at: datetime) -> str:
        """Runs a job for a practice's day; as ``run``."""
        self.instance.add_dynamic_partitions(str(PRACTICES.name), [practice])
        return self._run(job, dg.MultiPartitionKey({"day": day.isoformat(), "ods_code": practice}), at)

    def _run(self, job: str, partition: str, at: datetime, ops: Mapping[str, Any] | None = None) -> str:
        result = self._defs.resolve_job_def(job).execute_in_process(
            instance=self.instance,
            partition_key=partition,
            raise_on_error=False,
            run_config={
                "ops": dict(ops or {}),
                "resources": {"clock": {"config": {"at": at.isoformat()}}},
                "loggers": {"console": {"config": {"log_level": "CRITICAL"}}},
            },
        )
        if result.success:
            return result.run_id
        raise _why(result, job)

    def _is_registered(self, batch: str) -> bool:
        with House(self._home).ledger.read() as connection:
            return batch in {row.batch for row in batches.all_batches(connection)}


def _why(result: dg.ExecuteInProcessResult, job: str) -> Exception:
    for event in result.all_events:
        if event.is_step_failure:
            failure = event.step_failure_data.user_failure_data
            if failure and SENTENCE in failure.metadata:
                return Refused(str(failure.metadata[SENTENCE].value))
            if any(says_full_disk(said) for said in _said(event.step_failure_data.error)):
                return Refused(DISK_IS_FULL)
    for event in result.get_asset_check_evaluations():
        if not event.passed and event.blocking:
            what = f"{event.check_name} of {event.asset_key.to_user_string()}"
            return RunFailed(
                f"{job}: the check {what} failed: {event.description or 'see its metadata'}; run {result.run_id}"
            )
    steps = [event.step_key for event in result.all_events if event.is_step_failure]
    return RunFailed(
        f"{job}: run {result.run_id} failed in {', '.join(map(str, steps)) or 'its set-up'}; the UI shows it whole"
    )


def _said(error: Any) -> Iterator[str]:
    """What a failed step's error said, and what caused it."""
    while error is not None:
        yield error.message
        error = error.cause or error.context
