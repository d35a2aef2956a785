"""Reminders to patients who had a questionnaire and haven't answered, each once (issue 4; ``rules.reminders``).

What is due is queued as an attempt of a step of its own, for the dispatcher to send, or is left out with the reason;
then the patient's next one has its moment.
"""

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple

import sqlalchemy as sa

from batch_pipeline.ledger import batches as batches_
from batch_pipeline.ledger import controls, links
from batch_pipeline.ledger import reminders as reminders_
from batch_pipeline.ledger.dialects import one_of, unindexed
from batch_pipeline.ledger.engine import Ledger
from batch_pipeline.ledger.reminders import First
from batch_pipeline.ledger.tables import REMINDERS_SINCE, Instant, attempts, chunks, responses
from batch_pipeline.ledger.tables import links as links_
from batch_pipeline.rules import reminders as rules
from batch_pipeline.rules import steps
from batch_pipeline.rules.links import ends_at, life_of
from batch_pipeline.rules.policy import ReminderPolicy, reminder_policy
from batch_pipeline.rules.reminders import Against
from batch_pipeline.rules.states import attempt_state_sql, fallback_state_sql

AT_ONCE = 5_000
"""First messages looked at in one transaction."""


@dataclass(frozen=True)
class ReminderFacts:
    """What is looked at again at the moment a reminder is due. All sets are of keyed hashes."""

    providers: Mapping[str, str]
    """By channel, who is to carry it."""
    not_to_be_sent: Mapping[str, Collection[str]] = field(default_factory=dict[str, Collection[str]])
    """By channel, patients who opted out of it, died or are marked otherwise."""
    likely_to_fail: Collection[str] = frozenset()
    """Numbers; empty when the workspace's switch is off."""
    unheard: Collection[str] = ()
    """Providers that couldn't be asked what became of their messages: who had one by them waits."""


@dataclass(frozen=True, slots=True)
class Swept:
    """How many reminders were queued, and how many were left out, by reason."""

    queued: int = 0
    against: Mapping[str, int] = field(default_factory=dict[str, int])
    paused: bool = False
    """Nothing more was decided, because of a pause."""


class _Decided(NamedTuple):
    """What becomes of one patient's reminder that is due."""

    first: int
    """The id of the first message."""
    next_day: int | None
    reminder: Mapping[str, Any] | None
    """Its row, if it goes."""
    against: Against | None


def sweep(ledger: Ledger, batch: str, now: datetime, facts: ReminderFacts) -> Swept:
    """Decides every reminder of a batch that is due at ``now``: queued, or left out with the reason.

    One that was queued and not begun, because of a pause or a crash, is decided anew by what is known now. A paused
    batch's wait, a cancelled batch's end. What is due is decided in slices, each at once or not at all: a sweep that
    was cut short is finished by the next. Collect and fold the receipts first.
    """
    return _sweep(ledger, batch, now, facts, though_paused=False)


def sweep_though_paused(ledger: Ledger, batch: str, now: datetime, facts: ReminderFacts) -> Swept:
    """The same while all is paused, for a ledger that may have forgotten that they went: they aren't for sending."""
    return _sweep(ledger, batch, now, facts, though_paused=True)


def _sweep(ledger: Ledger, batch: str, now: datetime, facts: ReminderFacts, *, though_paused: bool) -> Swept:
    queued, against, taken_back = 0, Counter[str](), False
    while True:
        with ledger.write() as connection:
            known = batches_.get(connection, batch, lock=True)
            if not though_paused and controls.standing(connection, batch) is not None:
                return Swept(queued, dict(against), paused=True)
            if not taken_back:  # in one: two sweeps at once would take back each other's for ever
                reminders_.take_back(connection, batch)
                taken_back = True
            rows = _due(connection, batch, now, facts.unheard)
            decided = list(_decide(known, rows, facts, now))
            going = [each.reminder for each in decided if each.reminder is not None]
            reminders_.queue(connection, going)
            reminders_.set_days(connection, {each.first: each.next_day for each in decided})
            if going:
                batches_.mark_changed(connection, batch)
        queued += len(going)
        against.update(each.against for each in decided if each.against is not None)
        if len(rows) < AT_ONCE:
            return Swept(queued, dict(against))


def _due(connection: sa.Connection, batch: str, now: datetime, unheard: Collection[str]) -> Sequence[sa.Row[Any]]:
    """The first messages whose patients' reminders are due, each with all that is asked about it."""
    mine = unindexed(attempts.c.batch) == batch
    due = sa.select(attempts.c.id).where(mine, *reminders_.is_due(now)).limit(AT_ONCE)
    if unheard:
        by_text = sa.exists().where(_is_its_fallback, _fallback.c.provider.in_(unheard))
        due = due.where(attempts.c.provider.not_in(unheard), ~by_text)
    ids = connection.scalars(due.with_for_update(of=attempts, skip_locked=True)).all()
    known = _KNOWN.where(one_of(connection, attempts.c.id, ids))
    return connection.execute(known, {"at": now}).all() if ids else []


_fallback, _link = attempts.alias("fallback"), links_.alias("link")
_is_its_fallback = sa.and_(
    _fallback.c.batch == attempts.c.batch,
    _fallback.c.patient == attempts.c.patient,
    _fallback.c.step == steps.FALLBACK,
)
_before = attempts.alias("before")
_reminded_at = (
    sa.select(
        sa.func.max(
            sa.case((chunks.c.settled_at.is_(None), sa.bindparam("at", type_=Instant())), else_=_before.c.begun_at)
        )
    )
    .join_from(_before, chunks, chunks.c.reference == _before.c.chunk)
    .where(
        _before.c.batch == attempts.c.batch,
        _before.c.patient == attempts.c.patient,
        _before.c.step.in_(steps.REMINDERS),
    )
    .scalar_subquery()
)
_WANTED: tuple[sa.ColumnElement[Any], ...] = (
    *(attempts.c[name] for name in First._fields),
    *(attempts.c[name] for name in ("id", "reference", "reminder_day", "queued_at", "begun_at")),
    sa.func.coalesce(*(attempts.c[name] for name in REMINDERS_SINCE), type_=Instant()).label("since"),
    sa.literal_column(attempt_state_sql("attempts"), sa.Text()).label("primary_state"),
    sa.literal_column(fallback_state_sql("fallback"), sa.Text()).label("fallback_state"),
    _fallback.c.begun_at.label("fallback_begun_at"),
    _reminded_at.label("reminded_at"),
    links.is_revoked().label("link_revoked"),
    _link.c.locked_at,
    responses.c.first_at,
    responses.c.changed_at,
    responses.c.completed_at,
)
_KNOWN = (
    sa.select(*_WANTED)
    .select_from(attempts)
    .outerjoin(_link, sa.and_(_link.c.batch == attempts.c.batch, _link.c.patient == attempts.c.patient))
    .outerjoin(responses, sa.and_(responses.c.batch == attempts.c.batch, responses.c.patient == attempts.c.patient))
    .outerjoin(_fallback, _is_its_fallback)
)


def _decide(
    known: batches_.Batch, rows: Sequence[sa.Row[Any]], facts: ReminderFacts, now: datetime
) -> Iterator[_Decided]:
    policies = {
        queued_at: reminder_policy(known.questionnaire, queued_at) for queued_at in {row.queued_at for row in rows}
    }
    for row in rows:
        policy = policies[row.queued_at]
        if policy is None:  # nothing is asked: nobody was to be reminded
            yield _Decided(row.id, None, None, None)
            continue
        patient = _patient(row, known.questionnaire, now)
        due = _day_due(policy, row, now)
        channel = rules.reached_by(patient) or row.channel
        first = First.of(row)
        content = first.content(channel)
        if known.cancelled_at is not None:
            reason = "cancelled"
        else:
            reason = rules.against(patient, policy, row.since + due * rules.DAY, now) or _address_against(
                row, channel, content, facts
            )
        day = None if reason in _FOR_GOOD else rules.next_day(policy, due)
        if reason is not None or content is None:
            yield _Decided(row.id, day, None, reason)
        else:
            step = steps.reminder_of(due)
            reminder = reminders_.row_of(
                first,
                content,
                step=step,
                channel=channel,
                provider=facts.providers[channel],
                reference=f"{row.reference.removesuffix(steps.PRIMARY)}{step}",
                policy=policy.id,
                at=now,
            )
            yield _Decided(row.id, day, reminder, None)


# Nothing more is to come after these.
_FOR_GOOD = frozenset[Against | None]({"answered", "cancelled", "link_revoked", "no_details"})


def _day_due(policy: ReminderPolicy, row: sa.Row[Any], now: datetime) -> int:
    """Of the reminders that are due the last: those before it are too late."""
    return max(day for day in (row.reminder_day, *policy.days) if row.since + day * rules.DAY <= now)


def _patient(row: sa.Row[Any], questionnaire: str | None, now: datetime) -> rules.PatientFacts:
    brought = max((at for at in (row.begun_at, row.fallback_begun_at) if at is not None), default=now)
    return rules.PatientFacts(
        channel=row.channel,
        primary=row.primary_state,
        fallback=row.fallback_state,
        fallback_begun_at=row.fallback_begun_at,
        reminded_at=row.reminded_at,
        completed=row.completed_at is not None,
        changed_at=row.changed_at,
        link_revoked=row.link_revoked,
        link_locked=row.locked_at is not None,
        link_ends_at=ends_at(life_of("questionnaire", questionnaire), brought, row.first_at),
    )


def _address_against(
    row: sa.Row[Any], channel: str, content: tuple[str, str] | None, facts: ReminderFacts
) -> Against | None:
    """Why nothing goes to this patient by this channel."""
    holds: Mapping[Against, bool] = {
        "no_details": content is None,
        "not_to_be_sent": row.patient in facts.not_to_be_sent.get(channel, ()),
        "likely_to_fail": channel == "sms" and row.address_hash in facts.likely_to_fail,
    }
    return next((why for why, does in holds.items() if does), None)
