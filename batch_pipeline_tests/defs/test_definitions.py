"""What the UI shows: the graph of assets, their checks, columns, jobs and sensors."""

import os
from datetime import timedelta
from pathlib import Path

import dagster as dg
import pytest

from batch_pipeline.definitions import defs as load
from batch_pipeline.defs.partitions import BATCHES, PRACTICE_DAYS

GRAPH: dict[str, tuple[str, set[str]]] = {
    # asset: (group, what it is made from)
    "nhs_app_accounts": ("look_ups", set()),
    "cohort": ("cohort", set()),
    "patients": ("cohort", {"cohort"}),
    "rejected_rows": ("cohort", {"cohort"}),
    "duplicates": ("cohort", {"cohort"}),
    "pds_details": ("look_ups", {"patients", "nhs_app_accounts"}),
    "contactability": ("contactability", {"patients", "pds_details", "nhs_app_accounts"}),
    "recipients": ("contactability", {"patients", "pds_details", "nhs_app_accounts"}),
    "non_contactable": ("contactability", {"patients", "pds_details", "nhs_app_accounts"}),
    "channel_plan": ("channels", {"recipients", "patients", "cohort"}),
    "batch_plan": (
        "review",
        {"cohort", "patients", "rejected_rows", "duplicates", "pds_details", "non_contactable", "channel_plan"},
    ),
    "outbox": ("dispatch", {"batch_plan", "channel_plan", "patients", "cohort"}),
    "dispatch": ("dispatch", {"outbox"}),
    "receipts": ("receipts", {"dispatch"}),
    "fallbacks": ("fallback", {"receipts"}),
    "reminders": ("reminders", {"receipts", "fallbacks"}),
    "records": ("records", {"receipts", "fallbacks", "reminders"}),
    "inbox": ("reporting", {"dispatch", "patients"}),
    "bookings": ("reporting", {"outbox", "patients"}),
    "delivery_metrics": ("reporting", {"receipts", "fallbacks", "reminders"}),
}
REPORTS = {"non_contactable_report": {"non_contactable", "rejected_rows"}, "batch_report": {"delivery_metrics"}}
"""What they are made from at the least."""

PARTITIONS = {"nhs_app_accounts": PRACTICE_DAYS}
"""Of all others it is one a batch."""

CHECKS = {
    ("cohort", "the_file_is_understood"),
    ("patients", "every_line_is_in_one_place"),
    ("contactability", "every_patient_is_on_one_side"),
    ("channel_plan", "no_recipient_without_an_address"),
    ("channel_plan", "nobody_twice"),
    *((asset, "fits_its_schema") for asset in GRAPH),
}
SAYS_ONLY = {("inbox", "urgent_answers_are_told")}
"""Checks that stop nothing: what they tell of is for a person to act on."""

JOBS = {
    "plan": {
        *(
            "cohort",
            "patients",
            "rejected_rows",
            "duplicates",
            "pds_details",
            "contactability",
            "recipients",
            "non_contactable",
        ),
        *("channel_plan", "batch_plan", "non_contactable_report"),
    },
    "dispatch": {"outbox", "dispatch"},
    "receipts": {"receipts"},
    "fallback": {"fallbacks"},
    "reminders": {"reminders"},
    "records": {"records"},
    "inbox": {"inbox"},
    "bookings": {"bookings"},
    "report": {"delivery_metrics", "bookings", "batch_report"},
    "app_accounts": {"nhs_app_accounts"},
}
SENSORS = {
    "inbox_sensor": "plan",
    "dispatch_sensor": "dispatch",
    "receipts_sensor": "receipts",
    "fallback_sensor": "fallback",
    "reminders_sensor": "reminders",
    "records_sensor": "records",
    "answers_sensor": "inbox",
    "bookings_sensor": "bookings",
    "report_sensor": "report",
}


@pytest.fixture(scope="module")
def defs() -> dg.Definitions:
    before = os.umask(0o022)
    try:
        return load()
    finally:
        assert os.umask(before) == 0o077  # what Dagster makes after this is its owner's alone


@pytest.fixture(scope="module")
def specs(defs: dg.Definitions) -> dict[str, dg.AssetSpec]:
    return {spec.key.to_user_string(): spec for spec in defs.resolve_all_asset_specs()}


def test_the_graph_is_that_of_the_issue(specs: dict[str, dg.AssetSpec]) -> None:
    def made_from(name: str) -> set[str]:
        return {dep.asset_key.to_user_string() for dep in specs[name].deps}

    assert {name: (specs[name].group_name, made_from(name)) for name in GRAPH} == GRAPH
    assert specs.keys() == GRAPH.keys() | REPORTS.keys()
    for report, least in REPORTS.items():
        assert specs[report].group_name == "reporting"
        assert made_from(report) >= least


def test_every_asset_is_described_owned_partitioned_by_batch_and_typed(
    defs: dg.Definitions, specs: dict[str, dg.AssetSpec]
) -> None:
    graph = defs.resolve_asset_graph()
    for name, spec in specs.items():
        assert (spec.description or graph.get(spec.key).description or "").strip(), name
        assert spec.owners == ["team:messaging"], name
        assert spec.kinds & {"parquet", "csv"}, name
        assert graph.get(spec.key).partitions_def == PARTITIONS.get(name, BATCHES), name
        schema = spec.metadata["dagster/column_schema"]
        assert isinstance(schema, dg.TableSchema), name
        assert schema.columns, name
        for column in schema.columns:
            assert column.type, (name, column.name)
            assert column.description, (name, column.name)


def test_every_check_blocks_but_those_for_a_person(defs: dg.Definitions) -> None:
    graph = defs.resolve_asset_graph()
    found = {(key.asset_key.to_user_string(), key.name): graph.get_check_spec(key) for key in graph.asset_check_keys}
    assert found.keys() == CHECKS | SAYS_ONLY
    assert {key for key, spec in found.items() if not spec.blocking} == SAYS_ONLY


def test_jobs_run_their_assets_in_one_process(defs: dg.Definitions) -> None:
    for name, assets in JOBS.items():
        job = defs.resolve_job_def(name)
        assert {key.to_user_string() for key in job.asset_layer.executable_asset_keys} == assets
        assert job.executor_def is dg.in_process_executor
        assert job.tags["batch_pipeline/stage"] == name
    assert {job.name for job in defs.resolve_all_job_defs() if not job.name.startswith("__")} == JOBS.keys()
    # and so does what is materialised from the graph
    assert defs.resolve_implicit_global_asset_job_def().executor_def is dg.in_process_executor


def test_sensors_are_on_by_default_and_start_one_job_each(defs: dg.Definitions) -> None:
    sensors = {name: defs.resolve_sensor_def(name) for name in SENSORS}
    assert {sensor.name for sensor in defs.sensors or ()} == SENSORS.keys()
    for name, sensor in sensors.items():
        assert sensor.default_status is dg.DefaultSensorStatus.RUNNING
        assert sensor.job_name == SENSORS[name]
        assert sensor.minimum_interval_seconds is not None
        assert sensor.minimum_interval_seconds <= 60
        assert sensor.description


def test_the_app_s_accounts_are_fetched_by_a_schedule_that_is_on_and_are_known_to_age(
    defs: dg.Definitions, specs: dict[str, dg.AssetSpec]
) -> None:
    (schedule,) = list(defs.schedules or ())
    assert isinstance(schedule, dg.ScheduleDefinition)
    assert (schedule.job_name, schedule.execution_timezone) == ("app_accounts", "Europe/London")
    assert schedule.default_status is dg.DefaultScheduleStatus.RUNNING
    # all days at once, as "Materialise all" asks for them, are one run for each practice
    accounts = defs.resolve_asset_graph().get(dg.AssetKey("nhs_app_accounts"))
    assert accounts.backfill_policy == dg.BackfillPolicy.single_run()
    policy = specs["nhs_app_accounts"].freshness_policy
    assert policy == dg.FreshnessPolicy.time_window(warn_window=timedelta(days=2), fail_window=timedelta(days=7))


def test_loading_the_definitions_touches_no_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`dg check defs`, an editor, a test: none of them makes a ledger or asks for a home."""
    monkeypatch.setenv("BATCH_PIPELINE_HOME", str(tmp_path / "nowhere"))
    before = os.umask(0o077)
    load()
    os.umask(before)
    assert list(tmp_path.iterdir()) == []
