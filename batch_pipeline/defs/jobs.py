"""The jobs: which assets run together. All run in one process; a process a step costs ten times the work itself."""

import dagster as dg
from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition

UnresolvedJob = UnresolvedAssetJobDefinition

STAGE = "batch_pipeline/stage"
"""Run tag; the shipped ``dagster.yaml`` keeps slots free for sweeps by it."""


def _job(name: str, description: str, *assets: str) -> UnresolvedJob:
    return dg.define_asset_job(
        name,
        selection=dg.AssetSelection.assets(*assets),
        description=description,
        executor_def=dg.in_process_executor,
        tags={STAGE: name},
    )


plan = _job(
    "plan",
    "From a file in the inbox to a plan that a person can review.",
    *("cohort", "patients", "rejected_rows", "duplicates"),
    *(
        "pds_details",
        "contactability",
        "recipients",
        "non_contactable",
        "channel_plan",
        "batch_plan",
        "non_contactable_report",
    ),
)
dispatch = _job("dispatch", "Queues the approved plan and sends it, each message once.", "outbox", "dispatch")
receipts = _job("receipts", "Folds what the providers say into the batch.", "receipts")
fallback = _job("fallback", "Sends the fallbacks that are due.", "fallbacks")
reminders = _job("reminders", "Sends the reminders that are due.", "reminders")
records = _job("records", "Saves what was sent to the record, each message once.", "records")
inbox = _job("inbox", "Brings what patients answered to the inbox, and alerts to the practice.", "inbox")
bookings = _job("bookings", "Reports what patients booked.", "bookings")
report = _job("report", "Measures the batch and writes its reports.", "delivery_metrics", "bookings", "batch_report")
app_accounts = _job("app_accounts", "Fetches who of a practice has the NHS App.", "nhs_app_accounts")
