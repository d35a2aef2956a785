"""Contact details from PDS for the patients whose file lacks them: asked once each, kept at once, resumed where it stopped.

Each answer is in the ledger before the next patient is asked for: whatever dies, at most one is asked for again. Two
that look up the same patients at once share the work.
"""

import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import duckdb
import sqlalchemy as sa

from batch_pipeline.errors import Refused
from batch_pipeline.house import House, Submitted
from batch_pipeline.ingest.lists import NO_ACCOUNTS
from batch_pipeline.ledger import paces, pds_answers
from batch_pipeline.ledger.engine import Ledger
from batch_pipeline.planning.contact import Organisation, gaps
from batch_pipeline.planning.details import LookedUp, write_details
from batch_pipeline.progress import tell
from batch_pipeline.providers.accounts import pds_account
from batch_pipeline.providers.pds import LookUpFailed, Pds, ServiceFailed
from batch_pipeline.providers.pds_account import PdsAccount
from batch_pipeline.providers.protocol import ProviderStopped
from batch_pipeline.rules.demographics import FAILED, Details
from batch_pipeline.settings import PdsChoice

GIVE_UP_AFTER = 5
"""Patients in a row at whom the service failed: it is down, and the rest isn't asked for this time."""
Clock = Callable[[], datetime]
_Answer = tuple[Details, datetime | None]
"""And when it was given; None: nobody was asked."""


@dataclass(frozen=True, slots=True)
class _Wanted:
    """Somebody to look up. Personal, but for ``patient``, the keyed hash of the number."""

    patient: str
    line: int
    number: str
    born: date | None


def look_up(
    house: House, con: duckdb.DuckDBPyConnection, submitted: Submitted, patients: Path, out: Path, clock: Clock
) -> Mapping[str, int]:
    """Writes ``pds_details`` to ``out``; gives how many look-ups came to what, and how many were answered before.

    ``Refused`` when PDS takes no question from this workspace, with what to mend; what was answered stays kept.
    """
    chosen = submitted.workspace.pds
    if chosen is None:
        write_details(con, patients, (), out)
        return {}
    wanted = _gaps(house, con, submitted, patients, clock())
    hashes, since = [each.patient for each in wanted], clock() - chosen.fresh_for
    with house.ledger.read() as connection:
        known = pds_answers.fresh(connection, submitted.workspace.id, hashes, since)
        in_vain = pds_answers.asked_in_vain(connection, submitted.workspace.id, hashes)
    missing = [each for each in wanted if each.patient not in known]
    # At the end, or some whom no asking helps would stand before the others each time.
    missing.sort(key=lambda each: each.patient in in_vain)
    asked = dict(_asked(house, submitted, chosen, missing, clock)) if missing else {}
    answers: dict[str, _Answer] = {**known, **asked}
    identified = _keep_identity(house, submitted, answers)
    found = [LookedUp(each.line, *identified[each.patient]) for each in wanted]
    write_details(con, patients, found, out)
    outcomes = Counter(each.details.outcome for each in found)
    return {"patients": len(found), "answered before": len(known), **outcomes}


def _gaps(
    house: House, con: duckdb.DuckDBPyConnection, submitted: Submitted, patients: Path, now: datetime
) -> Sequence[_Wanted]:
    workspace = submitted.workspace
    snapshot, accounts = house.snapshot(workspace, now)
    found = gaps(
        con,
        patients,
        organisation=Organisation(workspace.organisation_type, workspace.nation, workspace.self_book_ignores_email),
        message_type=submitted.file.message.type,
        facts=house.facts(submitted, NO_ACCOUNTS if snapshot.state == "unknown" else accounts, now),
        hasher=house.hasher,
    )
    return [_Wanted(house.hasher.hash(number), line, number, born) for line, number, born in found]


def _asked(
    house: House, submitted: Submitted, chosen: PdsChoice, missing: Sequence[_Wanted], clock: Clock
) -> Iterator[tuple[str, _Answer]]:
    """Each patient's answer, in the ledger before it is given."""
    pending, in_vain = deque(missing), 0
    with _service(house, submitted, chosen) as (service, turns):
        while pending:
            tell("look-ups", len(missing) - len(pending), len(missing))
            each = pending.popleft()
            if in_vain >= GIVE_UP_AFTER:
                yield each.patient, (FAILED, None)
                continue
            turns.wait()
            now = clock()
            with house.ledger.read() as connection:
                told = _told(connection, submitted, each, now - chosen.fresh_for)
            if told is not None:
                yield each.patient, told
                continue
            try:
                details, in_vain = service.look_up(each.number, now, each.born), 0
            except ServiceFailed:
                details, in_vain = FAILED, in_vain + 1
            except LookUpFailed:
                details, in_vain = FAILED, 0
            except ProviderStopped as stop:
                raise Refused(
                    f"{submitted.row.batch}: looking patients up stopped: {stop}; then plan it again"
                ) from None
            current = None if details.current_number is None else house.hasher.hash(details.current_number)
            with house.ledger.write() as connection:
                told = _told(connection, submitted, each, now - chosen.fresh_for)
                pds_answers.keep(connection, submitted.workspace.id, each.patient, current, details, now)
            if told is not None:  # another goes through the same patients, and is just before us: the rest is shared
                pending.rotate(-(len(pending) // 2))
            yield each.patient, (details, now)
    tell("look-ups", len(missing), len(missing))


def _told(connection: sa.Connection, submitted: Submitted, each: _Wanted, since: datetime) -> _Answer | None:
    """What another planning run was told of a patient while this one was at work."""
    return pds_answers.fresh(connection, submitted.workspace.id, [each.patient], since).get(each.patient)


class _Turns:
    """The turns of an application to ask, which all processes take in one line."""

    def __init__(self, ledger: Ledger, account: PdsAccount) -> None:
        self._ledger = ledger
        self._account = account
        self._ours = False

    def wait(self) -> None:
        """Until it is our turn. It stays ours until it is taken: who to ask for is best known then."""
        if not self._ours:
            with self._ledger.write() as connection:
                per_minute = 60 * self._account.per_second
                name = paces.account_of("pds", self._account.application)
                wait = paces.book(connection, name, 1, per_minute, datetime.now(UTC))
            time.sleep(wait.total_seconds())
        self._ours = True

    def take(self) -> None:
        """Waits for our turn and uses it up."""
        self.wait()
        self._ours = False


@contextmanager
def _service(house: House, submitted: Submitted, chosen: PdsChoice) -> Iterator[tuple[Pds, _Turns]]:
    """PDS with this workspace's keys, at the pace of its application."""
    account = pds_account(submitted.workspace)
    turns = _Turns(house.ledger, account)
    service = Pds(account, pace=turns.take, timeout=timedelta(seconds=chosen.timeout))
    try:
        yield service, turns
    finally:
        service.close()


def _keep_identity(house: House, submitted: Submitted, answers: Mapping[str, _Answer]) -> Mapping[str, _Answer]:
    """The answers, without the current number of whoever is in this batch's outbox under the earlier one.

    There an attempt is a patient's by the hash of the number: under another one they would be somebody new, and be
    sent to again.
    """
    superseded = [patient for patient, (details, _) in answers.items() if details.current_number is not None]
    with house.ledger.read() as connection:
        staying = pds_answers.known_in(connection, submitted.row.batch, superseded)
    return {
        patient: (Details(details.outcome, None, details.mobile, details.email) if patient in staying else details, at)
        for patient, (details, at) in answers.items()
    }
