"""Contact details from PDS for the patients whose file lacks them: asked once each, kept at once, resumed where it stopped.

Each answer is in the ledger before the next patient is asked for: whatever dies, at most one is asked for again.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import duckdb

from batch_pipeline.errors import Refused
from batch_pipeline.house import House, Submitted
from batch_pipeline.ingest.lists import NO_ACCOUNTS
from batch_pipeline.ledger import paces, pds_answers
from batch_pipeline.planning.contact import Organisation, gaps
from batch_pipeline.planning.details import LookedUp, write_details
from batch_pipeline.progress import tell
from batch_pipeline.providers.accounts import pds_account
from batch_pipeline.providers.pds import LookUpFailed, Pds
from batch_pipeline.providers.protocol import ProviderStopped
from batch_pipeline.rules.demographics import FAILED, Details
from batch_pipeline.settings import PdsChoice

GIVE_UP_AFTER = 5
"""Patients in a row of whom nothing was learnt: the service is down, and the rest isn't asked for this time."""
Clock = Callable[[], datetime]


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
    wanted = {
        house.hasher.hash(number): (line, number) for line, number in _gaps(house, con, submitted, patients, clock())
    }
    with house.ledger.read() as connection:
        fresh = pds_answers.fresh(connection, submitted.workspace.id, clock() - chosen.fresh_for)
    known = {patient: fresh[patient] for patient in wanted if patient in fresh}
    missing = [(patient, number) for patient, (_, number) in wanted.items() if patient not in known]
    asked = dict(_asked(house, submitted, chosen, missing, clock)) if missing else {}
    answers: dict[str, tuple[Details, datetime | None]] = {**known, **asked}
    identified = _keep_identity(house, submitted, answers)
    found = [LookedUp(line, *identified[patient]) for patient, (line, _) in wanted.items()]
    write_details(con, patients, found, out)
    outcomes = Counter(each.details.outcome for each in found)
    return {"patients": len(found), "answered before": len(known), **outcomes}


def _gaps(
    house: House, con: duckdb.DuckDBPyConnection, submitted: Submitted, patients: Path, now: datetime
) -> Sequence[tuple[int, str]]:
    workspace = submitted.workspace
    snapshot, accounts = house.snapshot(workspace, now)
    return gaps(
        con,
        patients,
        organisation=Organisation(workspace.organisation_type, workspace.nation, workspace.self_book_ignores_email),
        message_type=submitted.file.message.type,
        facts=house.facts(submitted, NO_ACCOUNTS if snapshot.state == "unknown" else accounts, now),
        hasher=house.hasher,
    )


def _asked(
    house: House, submitted: Submitted, chosen: PdsChoice, missing: Sequence[tuple[str, str]], clock: Clock
) -> Iterator[tuple[str, tuple[Details, datetime | None]]]:
    """Each patient's answer, in the ledger before it is given."""
    in_vain = 0
    with _service(house, submitted, chosen) as service:
        for done, (patient, number) in enumerate(missing):
            tell("look-ups", done, len(missing))
            if in_vain >= GIVE_UP_AFTER:
                yield patient, (FAILED, None)
                continue
            now = clock()
            try:
                details, in_vain = service.look_up(number, now), 0
            except LookUpFailed:
                details, in_vain = FAILED, in_vain + 1
            except ProviderStopped as stop:
                raise Refused(
                    f"{submitted.row.batch}: looking patients up stopped: {stop}; then plan it again"
                ) from None
            current = None if details.current_number is None else house.hasher.hash(details.current_number)
            with house.ledger.write() as connection:
                pds_answers.keep(connection, submitted.workspace.id, patient, current, details, now)
            yield patient, (details, now)
    tell("look-ups", len(missing), len(missing))


@contextmanager
def _service(house: House, submitted: Submitted, chosen: PdsChoice) -> Iterator[Pds]:
    """PDS with this workspace's keys, at the pace of its application, which all processes keep to together."""
    account = pds_account(submitted.workspace)

    def pace() -> None:
        with house.ledger.write() as connection:
            name = paces.account_of("pds", account.application)
            wait = paces.book(connection, name, 1, 60 * account.per_second, datetime.now(UTC))
        time.sleep(wait.total_seconds())

    service = Pds(account, pace=pace, timeout=timedelta(seconds=chosen.timeout))
    try:
        yield service
    finally:
        service.close()


def _keep_identity(
    house: House, submitted: Submitted, answers: Mapping[str, tuple[Details, datetime | None]]
) -> Mapping[str, tuple[Details, datetime | None]]:
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
