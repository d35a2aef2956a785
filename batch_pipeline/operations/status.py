"""Where a batch stands: its label and its figures, from the ledger alone."""

import json
from typing import Any

from batch_pipeline.errors import Refused
from batch_pipeline.house import House
from batch_pipeline.ledger import batches, controls, figures, records, responses
from batch_pipeline.rules.states import shows_paused


def status(house: House, batch: str) -> dict[str, Any]:
    """The object of ``status BATCH --json``. ``Refused`` for a batch that was never submitted.

    ``paused`` is in it only while the batch is paused: ``{at, by, because, all}``, of the pause of all where that holds;
    ``record`` only once something of it was on the way to the record: ``{written, refused, at_work}``, in messages;
    ``answers`` only once a patient has answered: ``{completed, in_progress, urgent, untold}``, in patients.

    The plan's figures are those of the plan that was sent, once one was: a plan made again later changes nothing of
    what happened.
    """
    submitted = house.submitted(batch)
    plan = submitted.row.applied_plan or submitted.row.current_plan
    if plan is None:
        raise Refused(f"batch {batch} has no plan yet: submit it again")
    with house.ledger.read() as connection:
        planned = json.loads(batches.plan(connection, batch, plan).figures)
        found = figures.figures(connection, batch, planned, submitted.workspace.prices.as_prices())
        record = records.saved(connection, batch)
        if any(record):
            found["record"] = record._asdict()
        for answered in responses.counted(connection, batch):
            found["answers"] = {name: n for name, n in answered._asdict().items() if isinstance(n, int)}
        pause = controls.standing(connection, batch)
        if pause is not None and shows_paused(figures.status(connection, batch)):
            found["paused"] = {
                "at": pause.at.isoformat(timespec="seconds"),
                "by": pause.by,
                "because": pause.because,
                "all": pause.of_all,
            }
        return found


def all_statuses(house: House) -> tuple[list[dict[str, Any]], list[str]]:
    """The status of every batch, the latest submitted first; and of the batches that can't be told of, why."""
    with house.ledger.read() as connection:
        known = batches.all_batches(connection)
    found: list[dict[str, Any]] = []
    faulty: list[str] = []
    for row in sorted(known, key=lambda row: row.submitted_at, reverse=True):
        if row.current_plan is None:
            continue
        try:
            found.append(status(house, row.batch))
        except Refused as refusal:
            faulty.append(f"{row.batch}: {refusal}")
    return found, faulty
