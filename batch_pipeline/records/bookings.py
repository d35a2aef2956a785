"""A batch's bookings as a source of entries, each an ``Appointment``."""

from collections.abc import Sequence
from datetime import datetime

import sqlalchemy as sa

from batch_pipeline.ledger import booking_entries, records
from batch_pipeline.ledger.booking_entries import ENDED, Facts
from batch_pipeline.records.appointment import Because, Booking, appointment
from batch_pipeline.records.communication import Sender
from batch_pipeline.records.writer import Entry, Outcome


class Bookings:
    """What the batch's patients booked, gave up and declined."""

    resource_type = "Appointment"

    def __init__(self, sender: Sender, decline_code: str | None) -> None:
        self._sender = sender
        self._decline_code = decline_code

    def due(self, connection: sa.Connection, batch: str, now: datetime) -> records.Due:
        """A booking at once, its end after that, declining when it can't be taken back."""
        del connection
        return booking_entries.due(batch, now)

    def made(self, connection: sa.Connection, identifiers: Sequence[str]) -> list[Entry | Outcome]:
        """None is made of a booking whose patient's details were purged.

        A booking's own entry says that it was booked, also where it has ended by the time it is written: the next says that.
        """
        known = {each.identifier: each for each in booking_entries.facts(connection, identifiers)}
        found = ((each, known.get(each.removesuffix(ENDED))) for each in identifiers)
        return [self._one(identifier, facts) for identifier, facts in found if facts is not None]

    def _one(self, identifier: str, facts: Facts) -> Entry | Outcome:
        if facts.nhs_number is None:
            return Outcome(identifier, "refused", "its details were purged")
        ended = identifier.endswith(ENDED)
        booking = Booking(
            identifier,
            facts.nhs_number,
            facts.slot,
            facts.made_at,
            because=_because(facts, ended=ended),
            tells_of=facts.identifier if ended else None,
            decline_code=self._decline_code if facts.slot is None else None,
        )
        return Entry(identifier, appointment(self._sender, booking))


def _because(facts: Facts, *, ended: bool) -> Because | None:
    if facts.slot is None:
        return "declined"
    if not ended:
        return None
    return "changed" if facts.ended_because == "changed" else "cancelled"
