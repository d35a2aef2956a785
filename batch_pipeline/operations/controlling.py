"""What a person decides: pausing, resuming, cancelling, links, slots, what became of unconfirmed messages."""

from collections.abc import Collection, Generator
from contextlib import closing, contextmanager
from datetime import datetime

import sqlalchemy as sa

from batch_pipeline.errors import Refused
from batch_pipeline.house import House
from batch_pipeline.ledger import bookings, controls, links, restored
from batch_pipeline.ledger import unconfirmed as ledger_unconfirmed
from batch_pipeline.ledger.bookings import Clinic
from batch_pipeline.ledger.unconfirmed import Unconfirmed
from batch_pipeline.operations import booking, dispatching, restoring
from batch_pipeline.rules.slots import Changes
from batch_pipeline.sending import recording
from batch_pipeline.settings import Workspace, load_workspaces


def pause(house: House, batch: str, by: str, because: str | None, now: datetime) -> controls.Paused:
    """Pauses a batch within one chunk; gives the pause that stands."""
    with _deciding(house, by) as connection:
        return controls.pause(connection, batch, by, because, now)


def resume(house: House, batch: str, by: str, now: datetime) -> tuple[controls.Pause | None, controls.Pause | None]:
    """Lifts a batch's own pause; gives it, if there was one, and the pause of all, if that holds the batch on."""
    with _deciding(house, by) as connection:
        return controls.resume(connection, batch, by, now), controls.general(connection)


def pause_all(house: House, by: str, because: str | None, now: datetime) -> controls.Paused:
    """Pauses all batches within one chunk each, those made later too; gives the pause that stands."""
    with _deciding(house, by) as connection:
        return controls.pause_all(connection, by, because, now)


def resume_all(house: House, by: str, now: datetime) -> tuple[controls.Pause | None, list[str]]:
    """Lifts the pause of all; gives it, if there was one, and the batches that are paused by themselves."""
    with _deciding(house, by) as connection:
        return controls.resume_all(connection, by, now), controls.paused_by_themselves(connection)


def cancel(house: House, batch: str, by: str, now: datetime, *, with_fallbacks: bool) -> controls.Cancelled:
    """Cancels a batch for ever; gives how it is cancelled, and what was ended."""
    with _deciding(house, by) as connection:
        return controls.cancel(connection, batch, by, now, with_fallbacks=with_fallbacks)


def revoke(house: House, batch: str, lines: Collection[int], by: str, now: datetime) -> links.Revoked:
    """Revokes a batch's links, or those of some lines, at once and for ever; gives what it was about."""
    with _deciding(house, by) as connection:
        return links.revoke(connection, batch, lines, by, now)


def unlock(house: House, batch: str, line: int, by: str, now: datetime) -> bool:
    """Unlocks a patient's link; false when it isn't locked."""
    with _deciding(house, by) as connection:
        return links.unlock(connection, batch, line, by, now)


def take_in_slots(
    house: House, name: str, workspace_id: str | None, by: str, now: datetime
) -> tuple[Workspace, Changes]:
    """Takes a file of slots in that was changed, for all batches that name it; gives whose it is, and what changed."""
    require_name(by)
    workspace = _whose_slots(house, name, workspace_id)
    found = booking.read(house, workspace, name, now)
    with _deciding(house, by) as connection:
        return workspace, booking.take_in(house, connection, Clinic(workspace.id, name), found, now, by)


def _whose_slots(house: House, name: str, workspace_id: str | None) -> Workspace:
    """Where several workspaces have slots of a name, one has to be said."""
    if workspace_id is not None:
        return house.workspace(workspace_id)
    with house.ledger.read() as connection:
        known = bookings.workspaces(connection, name)
    every = known or [each.id for each in load_workspaces(house.home)]
    if len(every) != 1:
        raise Refused(f"--workspace ID: say whose slots they are; there are {', '.join(every) or 'no workspaces yet'}")
    return house.workspace(every[0])


def unconfirmed(house: House, batch: str) -> list[Unconfirmed]:
    """The batch's messages that may or may not have been sent."""
    with house.ledger.read() as connection:
        return ledger_unconfirmed.unconfirmed(connection, batch)


def resolve(
    house: House, batch: str, lines: Collection[int], by: str, now: datetime, *, sent: bool
) -> list[Unconfirmed]:
    """Records what a person found out about unconfirmed messages; gives those it was about.

    What the providers have to say is heard first: it goes before what a person thinks. One that can't be asked is no
    reason to let a patient wait: what it tells later counts as ever.
    """
    require_name(by)
    dispatching.hear(house, batch, now)
    writer = restored.writer(house.ledger, house.journal)
    with closing(house.journal), _deciding(house, by) as connection:
        found = ledger_unconfirmed.resolve(connection, batch, lines, by, now, sent=sent)
        if not sent:
            recording.record_not_sent(connection, house.journal, writer, found)
        return found


@contextmanager
def _deciding(house: House, by: str) -> Generator[sa.Connection]:
    """A writing transaction for what a person decides; the claims journal knows of it then."""
    require_name(by)
    with house.ledger.write() as connection:
        yield connection
    restoring.note_decision(house)


def require_name(by: str) -> None:
    """``Refused`` for a name that no person has."""
    if not by.strip():
        raise Refused("--by is empty: say who decides this")
    if by.strip().casefold() in (controls.BREAKER, controls.RESTORED):
        raise Refused(f"--by {by}: that is what the software calls itself: say who decides this")
