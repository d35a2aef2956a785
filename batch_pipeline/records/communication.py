"""A message as a FHIR R4 ``Communication`` (PROVIDERS 5). Pure: no ledger, no files, no clock."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any

from batch_pipeline.records.writer import identifier

NHS_NUMBER = "https://fhir.nhs.uk/Id/nhs-number"
ODS_CODE = "https://fhir.nhs.uk/Id/ods-organization-code"
SNOMED = "http://snomed.info/sct"
_WRITTEN = MappingProxyType(
    {
        "system": "http://terminology.hl7.org/CodeSystem/v3-ParticipationMode",
        "code": "WRITTEN",
        "display": "written",
    }
)
"""R4 has no code for a text message: the words beside the code tell."""
_MEDIA = MappingProxyType({"email": "Email", "nhs_app": "NHS App", "sms": "SMS"})
_KEPT = "\t\n\r"


@dataclass(frozen=True, slots=True)
class Sender:
    """Who sent a batch, and what it is about."""

    ods_code: str
    name: str
    snomed: Sequence[str]


@dataclass(frozen=True, slots=True)
class Message:
    """One message, as it is told in the record."""

    reference: str
    channel: str
    status: str
    """``completed`` or ``not-done``."""
    nhs_number: str = field(repr=False)
    text: str = field(repr=False)
    subject: str | None = field(default=None, repr=False)
    because: str | None = None
    """Why it is ``not-done``."""
    sent: datetime | None = None
    """When its provider took it; ``None`` for one that was refused."""
    received: datetime | None = None
    follows: str | None = None
    """Of a fallback or a reminder: the reference of the first message."""


def communication(sender: Sender, message: Message) -> dict[str, Any]:
    """The resource, as JSON has it; nothing empty is in it."""
    resource: dict[str, Any] = {
        "resourceType": "Communication",
        "identifier": [identifier(message.reference)],
        "inResponseTo": _follows(message),
        "status": message.status,
        "statusReason": {"text": message.because} if message.because else None,
        "medium": [{"coding": [dict(_WRITTEN)], "text": _MEDIA[message.channel]}],
        "subject": {"type": "Patient", "identifier": {"system": NHS_NUMBER, "value": message.nhs_number}},
        "topic": {"text": _plain(message.subject)} if message.subject else None,
        "sent": _instant(message.sent),
        "received": _instant(message.received),
        "sender": {
            "type": "Organization",
            "identifier": {"system": ODS_CODE, "value": sender.ods_code},
            "display": sender.name,
        },
        "reasonCode": [{"coding": [{"system": SNOMED, "code": code}]} for code in sender.snomed],
        "payload": [{"contentString": _plain(message.text)}],
    }
    return {name: value for name, value in resource.items() if value not in (None, [])}


def _follows(message: Message) -> list[dict[str, Any]]:
    """By its identifier: no server need have given the first entry an address, and a file has none."""
    if message.follows is None:
        return []
    return [{"type": "Communication", "identifier": identifier(message.follows)}]


def _plain(text: str) -> str:
    """Without the control characters that FHIR doesn't allow in a string; nobody sees them either."""
    return "".join(character for character in text if character >= " " or character in _KEPT)


def _instant(moment: datetime | None) -> str | None:
    return None if moment is None else moment.astimezone(UTC).isoformat(timespec="milliseconds")
