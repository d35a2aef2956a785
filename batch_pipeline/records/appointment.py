"""A booking as a FHIR R4 ``Appointment``. Pure: no ledger, no files, no clock.

An entry is written once and never changed. So one tells that an appointment was booked; where it is changed or cancelled
later, another entry, with an identifier of its own, tells of that and names the first.
"""

from dataclasses import dataclass, field
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any, Literal

from batch_pipeline.records.communication import NHS_NUMBER, ODS_CODE, SNOMED, Sender
from batch_pipeline.records.writer import identifier
from batch_pipeline.rules.slots import Slot

Because = Literal["changed", "cancelled", "declined"]

_BY_THE_PATIENT = MappingProxyType(
    {
        "system": "http://terminology.hl7.org/CodeSystem/appointment-cancellation-reason",
        "code": "pat",
        "display": "Patient",
    }
)
_REASONS = MappingProxyType(
    {
        "changed": "Changed by the patient to another appointment",
        "cancelled": "Cancelled by the patient",
        "declined": "The patient wants no appointment",
    }
)


@dataclass(frozen=True, slots=True)
class Booking:
    """What is told of a patient's choice."""

    identifier: str
    nhs_number: str = field(repr=False)
    slot: Slot | None
    """``None``: the patient declined."""
    made_at: datetime
    because: Because | None = None
    """Why there is no appointment; ``None``: there is one."""
    tells_of: str | None = None
    """The identifier of the entry of the booking that this one ends."""
    decline_code: str | None = None
    """SNOMED CT, of a patient who declined."""


def appointment(sender: Sender, booking: Booking) -> dict[str, Any]:
    """The resource, as JSON has it; nothing empty is in it."""
    slot = booking.slot
    resource: dict[str, Any] = {
        "resourceType": "Appointment",
        "identifier": [identifier(booking.identifier) | {"assigner": _organisation(sender)}],
        "status": "booked" if booking.because is None else "cancelled",
        "cancelationReason": _why(booking),
        "reasonCode": [{"coding": [{"system": SNOMED, "code": code}]} for code in sender.snomed],
        "supportingInformation": _tells_of(booking),
        "start": _instant(slot.starts_at) if slot else None,
        "end": _instant(slot.ends_at) if slot else None,
        "minutesDuration": slot.minutes if slot else None,
        "created": _instant(booking.made_at),
        "participant": _participants(booking),
    }
    return {name: value for name, value in resource.items() if value not in (None, [])}


def _organisation(sender: Sender) -> dict[str, Any]:
    ods_code = {"system": ODS_CODE, "value": sender.ods_code}
    return {"type": "Organization", "identifier": ods_code, "display": sender.name}


def _why(booking: Booking) -> dict[str, Any] | None:
    if booking.because is None:
        return None
    declined = [{"system": SNOMED, "code": booking.decline_code}] if booking.decline_code else []
    return {"coding": declined or [dict(_BY_THE_PATIENT)], "text": _REASONS[booking.because]}


def _tells_of(booking: Booking) -> list[dict[str, Any]]:
    """By its identifier: no server need have given the first entry an address, and a file has none."""
    if booking.tells_of is None:
        return []
    return [{"type": "Appointment", "identifier": identifier(booking.tells_of)}]


def _participants(booking: Booking) -> list[dict[str, Any]]:
    patient = {"type": "Patient", "identifier": {"system": NHS_NUMBER, "value": booking.nhs_number}}
    comes = "accepted" if booking.because is None else "declined"
    found: list[dict[str, Any]] = [{"actor": patient, "required": "required", "status": comes}]
    for kind, display in (
        ("Practitioner", booking.slot and booking.slot.clinician),
        ("Location", booking.slot and booking.slot.place),
    ):
        if display:
            found.append({"actor": {"type": kind, "display": display}, "status": "accepted"})
    return found


def _instant(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="milliseconds")
