"""The slots that a self-book message offers: read from the home, taken into the ledger, told of at review (SPEC 2.12)."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from batch_pipeline.errors import Refused
from batch_pipeline.house import House, Submitted
from batch_pipeline.ingest.slots import SlotsFile, read_slots
from batch_pipeline.ledger import bookings
from batch_pipeline.ledger.bookings import Clinic, Place
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


def counted(places: list[Place], now: datetime) -> Mapping[str, int]:
    """Of a clinic: its slots to come, their places, and those that are free."""
    to_come = [each for each in places if each.slot.starts_at > now and each.removed_at is None]
    return {
        "slots": len(to_come),
        "places": sum(each.slot.capacity for each in to_come),
        "free": sum(each.free for each in to_come),
    }
