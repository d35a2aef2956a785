"""A batch's status and figures: the plan's counts, and what the ledger's attempts have come to (SPEC 2.10)."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import sqlalchemy as sa

from batch_pipeline.errors import Refused
from batch_pipeline.ledger import controls, records
from batch_pipeline.ledger import reminders as reminders_
from batch_pipeline.ledger.tables import approvals, attempts, batches
from batch_pipeline.rules import reasons
from batch_pipeline.rules.costs import Prices, Sent, cost, saved_by_app
from batch_pipeline.rules.paths import PATHS
from batch_pipeline.rules.records import RECORDED_STATES
from batch_pipeline.rules.states import (
    ATTEMPT_STATES,
    PATIENT_CLASSES,
    BatchFacts,
    PatientFacts,
    attempt_state_number_sql,
    batch_status,
    ended_sql,
    may_fall_back_sql,
    patient_class_sql,
    taken_sql,
)

Packed = npt.NDArray[np.int64]

KEYS: tuple[str, ...] = (
    *("batch", "status", "lines", "patient_list", "rejected", "duplicates", "non_contactable", "recipients"),
    *("without_valid_mobile", "delivered", "emailed", "read", "unread", "failed", "fallback_sent"),
    *("fallback_delivered", "awaiting", "cancelled", "expired", "unconfirmed", "held_back", "no_sms_fallback"),
    *("double_contact", "reminders", "fragments", "cost", "currency"),
)
"""Of ``figures``, in their order. All but lines, rejected, duplicates, reminders, fragments and cost count patients."""


@dataclass(frozen=True, slots=True)
class Progress:
    """What the attempts of an outbox have come to. Counts patients; reminders and fragments apart."""

    recipients: Mapping[str, int]
    """By the channel of the primary attempt."""
    classes: Mapping[str, int]
    """By ``PATIENT_CLASSES``, zeros included: they add up to the recipients."""
    ended: int
    begun: int
    read: int
    unread: int
    fallback_sent: int
    fallback_delivered: int
    double_contact: int
    reminders: int
    """That providers took."""
    sent: Sent
    fragments_saved: int
    """Of the texts that patients who read in the App would have got, and didn't."""
    for_record: int
    """Messages, fallbacks and reminders among them, that are written to the record sooner or later."""


class _Group(NamedTuple):
    """Patients who are alike in everything that is counted."""

    channel: str
    primary: str
    fallback: str | None
    patient_class: str
    ended: int
    primary_taken: bool
    fallback_taken: bool
    patients: int
    primary_fragments: int
    fallback_fragments: int


class _Reminders(NamedTuple):
    """Reminders that are alike in everything that is counted."""

    channel: str
    state: str
    taken: bool
    messages: int
    fragments: int


def figures(connection: sa.Connection, batch: str, plan_figures: Mapping[str, Any], prices: Prices) -> dict[str, Any]:
    """The object of ``status BATCH --json``: ``KEYS``, in their order; ``cost`` is a ``Decimal`` (see ``to_json``).

    ``plan_figures``: of the applied plan, or of the current one while there is no outbox: ``lines, patient_list,
    rejected, duplicates, non_contactable {code: patients}, recipients {path: patients}, held_back,
    no_sms_fallback``; a figure that isn't there is 0 (no plan yet). Once there is an outbox, it says who the
    recipients are. ``Refused`` for an unknown batch.
    """
    known = _batch(connection, batch)
    if known.applied_plan is not None:
        reached = progress(connection, batch)
    else:
        reached = _nothing_yet(plan_figures, cancelled=known.cancelled_at is not None)
    non_contactable = _by_name(plan_figures, "non_contactable", reasons.CODES)
    found: dict[str, Any] = {
        "batch": batch,
        "status": batch_status(_batch_facts(known, reached, records.saved(connection, batch), reminds=False)),
        **{name: int(plan_figures.get(name, 0)) for name in ("lines", "patient_list", "rejected", "duplicates")},
        "non_contactable": non_contactable,
        "recipients": dict(reached.recipients),
        "without_valid_mobile": sum(non_contactable[code] for code in reasons.WITHOUT_VALID_MOBILE),
        **reached.classes,
        "read": reached.read,
        "unread": reached.unread,
        "fallback_sent": reached.fallback_sent,
        "fallback_delivered": reached.fallback_delivered,
        "no_sms_fallback": int(plan_figures.get("no_sms_fallback", 0)),
        "double_contact": reached.double_contact,
        "reminders": reached.reminders,
        "fragments": reached.sent.sms_fragments,
        "cost": cost(reached.sent, prices),
        "currency": prices.currency,
    }
    return {key: found[key] for key in KEYS}


def status(connection: sa.Connection, batch: str) -> BatchFacts:
    """What the batch's label follows from (``states.batch_status``, ``states.shown_status``)."""
    known = _batch(connection, batch)
    reached = progress(connection, batch) if known.applied_plan is not None else None
    # It is asked of the reminders of all batches: only where it shows.
    reminds = bool(known.paused) and reminders_.are_to_come(connection, batch)
    return _batch_facts(known, reached, records.saved(connection, batch), reminds=reminds)


def saved(reached: Progress, prices: Prices) -> Decimal:
    """What the App saved so far: the texts that patients who read there didn't need."""
    return saved_by_app(reached.fragments_saved, prices)


def to_json(value: Mapping[str, Any]) -> str:
    """One JSON object on one line, with decimals as the exact numbers they are (``json`` would refuse them)."""

    def text(item: object) -> str:
        if isinstance(item, Decimal):
            return format(item, "f")
        if isinstance(item, Mapping):
            return "{" + ", ".join(f"{json.dumps(str(key))}: {text(part)}" for key, part in item.items()) + "}"  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
        return json.dumps(item)

    return text(value)


def progress(connection: sa.Connection, batch: str) -> Progress:
    """What the batch's attempts have come to, in one reading of its rows."""
    groups, reminders = _groups(connection, batch)

    def patients(chosen: Iterable[_Group]) -> int:
        return sum(group.patients for group in chosen)

    app = [group for group in groups if group.channel == "nhs_app"]
    read = [group for group in app if group.primary == "read"]
    fell_back = [group for group in groups if group.fallback_taken]
    return Progress(
        recipients={path: patients(group for group in groups if group.channel == path) for path in PATHS},
        classes={name: patients(group for group in groups if group.patient_class == name) for name in PATIENT_CLASSES},
        ended=patients(group for group in groups if group.ended),
        begun=patients(group for group in groups if group.primary not in _NOT_BEGUN),
        read=patients(read),
        unread=patients(group for group in app if group.primary in ("accepted", "delivered")),
        fallback_sent=patients(fell_back),
        fallback_delivered=patients(group for group in groups if group.fallback in ("read", "delivered")),
        double_contact=patients(group for group in read if group.fallback_taken),
        reminders=sum(each.messages for each in reminders if each.taken),
        sent=Sent(
            emails=patients(group for group in groups if group.channel == "email" and group.primary_taken)
            + sum(each.messages for each in reminders if each.channel == "email" and each.taken),
            app_messages=patients(group for group in app if group.primary_taken)
            + sum(each.messages for each in reminders if each.channel == "nhs_app" and each.taken),
            sms_fragments=sum(
                group.primary_fragments for group in groups if group.channel == "sms" and group.primary_taken
            )
            + sum(group.fallback_fragments for group in fell_back)
            + sum(each.fragments for each in reminders if each.channel == "sms" and each.taken),
        ),
        fragments_saved=sum(group.primary_fragments for group in read if not group.fallback_taken),
        for_record=patients(group for group in groups if group.primary in RECORDED_STATES)
        + patients(group for group in groups if group.fallback in RECORDED_STATES)
        + sum(each.messages for each in reminders if each.state in RECORDED_STATES),
    )


_NOT_BEGUN = ("queued", "held_back", "cancelled", "expired")


def _batch(connection: sa.Connection, batch: str) -> sa.Row[Any, Any, Any, Any]:
    approved = sa.exists().where(approvals.c.batch == batches.c.batch, approvals.c.plan_hash == batches.c.current_plan)
    query = sa.select(
        batches.c.applied_plan,
        batches.c.cancelled_at,
        controls.is_paused().label("paused"),
        approved.label("approved"),
    ).where(batches.c.batch == batch)
    row = connection.execute(query).one_or_none()
    if row is None:
        raise Refused(f"there is no batch {batch}: submit it first, or look at status for the ids there are")
    return row


def _batch_facts(
    known: sa.Row[Any, Any, Any, Any], reached: Progress | None, saved_so_far: records.Saved, *, reminds: bool
) -> BatchFacts:
    outbox_written = known.applied_plan is not None
    recipients = sum(reached.recipients.values()) if reached else 0
    return BatchFacts(
        approved=bool(known.approved),
        outbox_written=outbox_written,
        begun=outbox_written and reached is not None and reached.begun > 0,
        all_ended=outbox_written and reached is not None and reached.ended == recipients,
        cancelled=known.cancelled_at is not None,
        paused=bool(known.paused),
        saving=any(saved_so_far),
        all_saved=reached is not None and saved_so_far.written >= reached.for_record,
        reminds=reminds,
    )


def _by_name(plan_figures: Mapping[str, Any], name: str, names: Iterable[str]) -> dict[str, int]:
    """A figure that is counted by name, with its zeros."""
    counted = plan_figures.get(name, {})
    return {each: int(counted.get(each, 0)) for each in names}


def _nothing_yet(plan_figures: Mapping[str, Any], *, cancelled: bool) -> Progress:
    """Before the outbox is written: whom the plan holds back is known, everybody else awaits, or is cancelled."""
    recipients = _by_name(plan_figures, "recipients", PATHS)
    held_back = int(plan_figures.get("held_back", 0))
    classes = dict.fromkeys(PATIENT_CLASSES, 0)
    classes["held_back"] = held_back
    classes["cancelled" if cancelled else "awaiting"] = sum(recipients.values()) - held_back
    return Progress(
        recipients, classes, ended=0, begun=0, read=0, unread=0, fallback_sent=0, fallback_delivered=0,
        double_contact=0, reminders=0, sent=Sent(0, 0, 0), fragments_saved=0, for_record=0,
    )  # fmt: skip


# All that is counted of an attempt, packed into one number: the ledger is read straight through once, and nothing
# is joined, sorted or made into a Python row there. A million attempts take two seconds so, and six in SQL alone.
_CHANNEL, _STATE, _MAY_FALL_BACK, _NO_FALLBACK, _TAKEN, _FALLBACK = 1, 1 << 2, 1 << 6, 1 << 7, 1 << 8, 1 << 9
_REMINDER = 1 << 10
_FACTS = 1 << 11
_LINE_BITS = 26
_FRAGMENTS, _LINE = _FACTS, 1 << _LINE_BITS
_OF_LINE = _LINE - 1
_NO_STATE = 15
_ROWS = 100_000

# coalesce() around the batch keeps SQLite from fetching row after row by an index that is sorted by patient.
_ATTEMPTS = sa.text(f"""
    SELECT CAST(a.line AS BIGINT) * {_LINE} + a.fragments * {_FRAGMENTS} + {_STATE} * ({attempt_state_number_sql("a")})
        + CASE a.channel WHEN 'email' THEN {PATHS.index("email")} WHEN 'sms' THEN {PATHS.index("sms")} ELSE {PATHS.index("nhs_app")} END
        + CASE WHEN {may_fall_back_sql("a")} THEN {_MAY_FALL_BACK} ELSE 0 END
        + CASE WHEN a.no_fallback_at IS NULL THEN 0 ELSE {_NO_FALLBACK} END
        + CASE WHEN {taken_sql("a")} THEN {_TAKEN} ELSE 0 END
        + CASE a.step WHEN 'primary' THEN 0 WHEN 'fallback' THEN {_FALLBACK} ELSE {_REMINDER} END
    FROM attempts a WHERE a.id BETWEEN :first AND :last AND coalesce(a.batch, '') = :batch
""")


def _groups(connection: sa.Connection, batch: str) -> tuple[list[_Group], list[_Reminders]]:
    every = _packed(connection, batch)
    reminder = every & _REMINDER > 0
    packed, reminders = every[~reminder], _reminders(every[reminder])
    fallback = packed & _FALLBACK > 0
    first, second = packed[~fallback], np.sort(packed[fallback])
    # Each patient's fallback, by line; a state of its own where there is none.
    found = np.append(second, _NO_STATE * _STATE)[np.searchsorted(second >> _LINE_BITS, first >> _LINE_BITS)]
    found[found >> _LINE_BITS != first >> _LINE_BITS] = _NO_STATE * _STATE
    kinds, patients = np.unique(first & _OF_LINE | (found & _OF_LINE) << _LINE_BITS, return_counts=True)
    known = _known(connection, {(kind % _FACTS, kind // _LINE % _FACTS) for kind in kinds.tolist()})
    groups = [
        _Group(
            **known[kind % _FACTS, kind // _LINE % _FACTS],
            primary_taken=kind & _TAKEN > 0,
            fallback_taken=kind // _LINE & _TAKEN > 0,
            patients=count,
            primary_fragments=count * (kind % _LINE // _FRAGMENTS),
            fallback_fragments=count * (kind // _LINE // _FRAGMENTS),
        )
        for kind, count in zip(kinds.tolist(), patients.tolist(), strict=True)
    ]
    return groups, reminders


def _reminders(packed: Packed) -> list[_Reminders]:
    kinds, messages = np.unique(packed & _OF_LINE, return_counts=True)
    return [
        _Reminders(
            channel=PATHS[kind % _STATE],
            state=ATTEMPT_STATES[kind // _STATE % 16],
            taken=kind & _TAKEN > 0,
            messages=count,
            fragments=count * (kind // _FRAGMENTS),
        )
        for kind, count in zip(kinds.tolist(), messages.tolist(), strict=True)
    ]


def _packed(connection: sa.Connection, batch: str) -> Packed:
    parts = [np.empty(0, np.int64)]
    for first, last in _spans(connection, batch):
        found = connection.execute(
            _ATTEMPTS, {"batch": batch, "first": first, "last": last}, execution_options={"yield_per": _ROWS}
        )
        parts += [np.array(numbers, np.int64) for numbers in found.scalars().partitions(_ROWS)]
    return np.concatenate(parts)


def _spans(connection: sa.Connection, batch: str) -> list[tuple[int, int]]:
    """Between which ids the batch's attempts are; no two overlap.

    By steps: between a message and its reminder of day 6 lie all that were sent in six days.
    """
    by_step = sa.select(sa.func.min(attempts.c.id), sa.func.max(attempts.c.id)).where(attempts.c.batch == batch)
    spans: list[tuple[int, int]] = []
    for first, last in sorted((row[0], row[1]) for row in connection.execute(by_step.group_by(attempts.c.step))):
        if spans and first <= spans[-1][1]:
            spans[-1] = (spans[-1][0], max(last, spans[-1][1]))
        else:
            spans.append((first, last))
    return spans


def _known(connection: sa.Connection, pairs: Iterable[tuple[int, int]]) -> dict[tuple[int, int], dict[str, Any]]:
    """What the rules say of each pair of packed primary and fallback facts that occurs; they are asked in SQL."""
    values = ", ".join(f"({first}, {second})" for first, second in pairs)
    if not values:
        return {}
    known = PatientFacts(
        channel="channel",
        primary="primary_state",
        fallback="fallback_state",
        may_fall_back=f"facts / {_MAY_FALL_BACK} % 2 = 1",
        no_fallback=f"facts / {_NO_FALLBACK} % 2 = 1",
    )
    query = f"""
        WITH pairs(facts, fallback_facts) AS (VALUES {values}), named AS (
            SELECT facts, fallback_facts, {_named(f"facts % {_STATE}", PATHS)} AS channel,
                {_named(f"facts / {_STATE} % 16", ATTEMPT_STATES)} AS primary_state,
                {_named(f"fallback_facts / {_STATE} % 16", ATTEMPT_STATES)} AS fallback_state
            FROM pairs
        )
        SELECT facts, fallback_facts, channel, primary_state, fallback_state, {patient_class_sql(known)}, {ended_sql(known)}
        FROM named
    """
    names = ("channel", "primary", "fallback", "patient_class", "ended")
    return {(row[0], row[1]): dict(zip(names, row[2:], strict=True)) for row in connection.execute(sa.text(query))}


def _named(number: str, names: Iterable[str]) -> str:
    """SQL text value of a place in ``names``; NULL for a place it doesn't have."""
    return f"CASE {number} {' '.join(f'WHEN {place} THEN {name!r}' for place, name in enumerate(names))} END"
