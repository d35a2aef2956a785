"""The slots that a self-book message offers: read from the home, taken into the ledger, told of at review (SPEC 2.12)."""

import json
from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

import sqlalchemy as sa

from batch_pipeline.errors import Refused
from batch_pipeline.house import House, Submitted
from batch_pipeline.ingest.slots import SlotsFile, read_slots
from batch_pipeline.ledger import batches, bookings, snapshot
from batch_pipeline.ledger.bookings import Clinic
from batch_pipeline.rules import snomed
from batch_pipeline.rules.slots import Changes
from batch_pipeline.settings import BatchFile, Workspace


def slots_of(house: House, file: BatchFile, workspace: Workspace, now: datetime) -> SlotsFile | None:
    """The slots that a batch file names, if it does; ``Refused`` for a file that isn't there or isn't sound."""
    code = file.message.decline_snomed
    if code is not None and (fault := snomed.fault(code)):
        raise Refused(f'batch {file.batch}, message.decline_snomed: "{code}": {fault}')
    return None if file.message.booking is None else read(house, workspace, file.message.booking, now)


def read(house: House, workspace: Workspace, booking: str, now: datetime) -> SlotsFile:
    """A workspace's slots of that name, as their file has them; ``Refused`` as ``slots_of``."""
    with house.ledger.read() as connection:
        known = bookings.known(connection, Clinic(workspace.id, booking))
    return read_slots(house.home, booking, workspace.zone, known, now)


def take_in(
    house: House, connection: sa.Connection, clinic: Clinic, found: SlotsFile, now: datetime, by: str
) -> Changes:
    """Makes a clinic's slots those of a file, in a transaction of the caller's; the file is kept under its SHA-256."""
    house.keep_slots(found)
    return bookings.take_in(connection, clinic, found.slots, found.name, found.sha256, now, by)


def clinic_of(submitted: Submitted) -> Clinic | None:
    """The slots that a batch's patients book; ``None`` for a batch that offers none."""
    booking = submitted.file.message.booking
    return None if booking is None else Clinic(submitted.workspace.id, booking)


def shown(house: House, submitted: Submitted) -> dict[str, Any] | None:
    """What a person who reviews needs to know of the slots. Whoever books meanwhile changes nothing of it."""
    if (clinic := clinic_of(submitted)) is None:
        return None
    with house.ledger.read() as connection:
        offered = [each for each in bookings.places(connection, clinic) if each.removed_at is None]
    zone = submitted.workspace.zone
    starts = [each.slot.starts_at.astimezone(zone).isoformat(timespec="minutes") for each in offered]
    return {
        "name": clinic.booking,
        "slots": len(offered),
        "places": sum(each.slot.capacity for each in offered),
        **({"first": starts[0], "last": starts[-1]} if starts else {}),
    }


def answered(house: House, batch: str, now: datetime) -> dict[str, Any]:
    """What a batch's patients chose, line by line and counted, and what is left of its slots. No names, no numbers.

    ``Refused`` for a batch that offers none.
    """
    submitted = house.submitted(batch)
    clinic = clinic_of(submitted)
    if clinic is None:
        raise Refused(f"{batch} offers no slots to book: its message has no booking")
    with house.ledger.read() as connection:
        offered = bookings.places(connection, clinic)
        rows = [row for some in snapshot.read_bookings(connection, batch, *clinic) for row in some.to_pylist()]
    to_come = [each for each in offered if each.removed_at is None and each.slot.starts_at > now]
    zone = submitted.workspace.zone
    return {
        "batch": batch,
        "slots": clinic.booking,
        "places": sum(each.slot.capacity for each in to_come),
        "free": sum(each.free for each in to_come),
        **{
            answer: sum(row["answer"] == answer for row in rows)
            for answer in ("booked", "declined", "cancelled", "none")
        },
        "lines": [{name: _local(value, zone) for name, value in row.items()} for row in rows],
    }


def _local(value: Any, zone: ZoneInfo) -> Any:
    return value.astimezone(zone).isoformat(timespec="minutes") if isinstance(value, datetime) else value


def with_slots(house: House) -> list[str]:
    """Batches that offer slots, in the order of submission."""
    with house.ledger.read() as connection:
        every = batches.all_batches(connection)
    return [each.batch for each in every if json.loads(each.spec)["batch_file"]["message"].get("booking")]
