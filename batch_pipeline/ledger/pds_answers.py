"""What PDS said of patients: kept as soon as it is said, so that nothing is asked twice, and found again while it is fresh."""

from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import datetime

import sqlalchemy as sa

from batch_pipeline.ledger.dialects import insert, one_of_texts
from batch_pipeline.ledger.tables import attempts, patient_marks, pds_answers
from batch_pipeline.rules.demographics import OUTCOMES, UNSETTLED, Details, Outcome

SOURCE = "pds"
"""Of the marks that look-ups give, which a later look-up may take back."""
_MARKS = {"deceased": "deceased", "invalidated": "invalidated", "exit_coded": "exit_coded"}
"""By outcome: what is remembered of a patient for every batch (SPEC 2.9)."""
_AT_ONCE = 10_000
"""Patients named in one statement."""


def fresh(
    connection: sa.Connection, workspace: str, patients: Sequence[str], since: datetime
) -> dict[str, tuple[Details, datetime]]:
    """Of these patients, what was said to this workspace at or after ``since``, and when; never a failure."""
    outcomes: dict[str, Outcome] = {outcome: outcome for outcome in OUTCOMES}
    settled = sa.and_(pds_answers.c.fetched_at >= since, pds_answers.c.outcome.not_in(UNSETTLED))
    return {
        row.patient: (Details(outcomes[row.outcome], row.current_number, row.mobile, row.email), row.fetched_at)
        for some in _some_at_once(patients)
        for row in connection.execute(sa.select(pds_answers).where(_of(connection, workspace, some), settled))
    }


def asked_in_vain(connection: sa.Connection, workspace: str, patients: Sequence[str]) -> set[str]:
    """Those of these patients of whom nothing was learnt when they were asked for last."""
    return {
        patient
        for some in _some_at_once(patients)
        for patient in connection.scalars(
            sa.select(pds_answers.c.patient).where(
                _of(connection, workspace, some), pds_answers.c.outcome.in_(UNSETTLED)
            )
        )
    }


def _some_at_once(patients: Sequence[str]) -> list[Sequence[str]]:
    return [patients[start : start + _AT_ONCE] for start in range(0, len(patients), _AT_ONCE)]


def _of(connection: sa.Connection, workspace: str, patients: Sequence[str]) -> sa.ColumnElement[bool]:
    return sa.and_(pds_answers.c.workspace == workspace, one_of_texts(connection, pds_answers.c.patient, patients))


def same_people(connection: sa.Connection, workspace: str, hashed: Callable[[str], str]) -> Mapping[str, set[str]]:
    """By patient (keyed hash), the same person under other numbers, as far as PDS told this workspace of them."""
    superseded = sa.select(pds_answers.c.patient, pds_answers.c.current_number).where(
        pds_answers.c.workspace == workspace, pds_answers.c.current_number.is_not(None)
    )
    people = defaultdict[str, set[str]](set)
    for row in connection.execute(superseded):
        people[row.current_number] |= {row.patient, hashed(row.current_number)}
    return {each: person - {each} for person in people.values() for each in person}


def keep(
    connection: sa.Connection, workspace: str, patient: str, current: str | None, details: Details, now: datetime
) -> None:
    """Keeps an answer in place of the one before, and marks the patient for later batches where it says so.

    One from which nothing was learnt leaves the number that is known to have superseded the patient's.
    ``current``: the hash of the number that has superseded this patient's; it is the same person's. A mark of an
    earlier look-up that this one doesn't bear out is taken back; those of other sources stay.
    """
    said = {
        "fetched_at": now,
        "outcome": details.outcome,
        "current_number": details.current_number,
        "mobile": details.mobile,
        "email": details.email,
    }
    row = insert(connection, pds_answers).values(workspace=workspace, patient=patient, **said)
    if details.outcome in UNSETTLED:
        del said["current_number"]
    connection.execute(row.on_conflict_do_update(index_elements=["workspace", "patient"], set_=said))
    if details.outcome in UNSETTLED:
        return
    mark = _MARKS.get(details.outcome)
    for each in (patient, current):
        if each is None:
            continue
        taken_back = sa.delete(patient_marks).where(patient_marks.c.patient == each, patient_marks.c.source == SOURCE)
        connection.execute(taken_back if mark is None else taken_back.where(patient_marks.c.mark != mark))
        if mark is not None:
            row = insert(connection, patient_marks).values(patient=each, mark=mark, marked_at=now, source=SOURCE)
            connection.execute(row.on_conflict_do_nothing(index_elements=["patient", "mark"]))


def marked_by_look_ups(connection: sa.Connection) -> frozenset[str]:
    """Patients of whom nothing but a look-up says that they are dead, gone or not to be found."""
    other = patient_marks.alias()
    query = sa.select(patient_marks.c.patient).where(
        patient_marks.c.source == SOURCE,
        ~sa.exists().where(other.c.patient == patient_marks.c.patient, other.c.source != SOURCE),
    )
    return frozenset(connection.scalars(query))


def known_in(connection: sa.Connection, batch: str, patients: Collection[str]) -> set[str]:
    """Those of the patients, by hash, who have a message in this batch's outbox: there they keep their identity."""
    return {
        patient
        for patient in patients
        if connection.scalar(
            sa.select(sa.literal(1)).where(attempts.c.batch == batch, attempts.c.patient == patient).limit(1)
        )
    }
