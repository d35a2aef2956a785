"""What an attempt is, and what a patient is: the one rule, as tables that become SQL (SPEC 2.8-2.10).

Nothing stores a state. Both rules are functions of the attempts' timestamp columns alone, so no order of receipts and
no repeat can change what comes out. The SQL is plain ``CASE`` and means the same on SQLite, PostgreSQL and DuckDB.

An *attempt* is in one of ``ATTEMPT_STATES``; a *patient*, made of a primary attempt and perhaps a fallback, is in
exactly one of ``PATIENT_CLASSES``: the classes that add up to the recipients.
"""

from dataclasses import asdict, dataclass

ATTEMPT_RULE: tuple[tuple[str, str], ...] = (
    # Acceptance is an email's end state unless it bounces, whatever else is told of it.
    ("{a}.channel = 'email' AND {a}.failed_at IS NOT NULL", "failed"),
    ("{a}.channel = 'email' AND coalesce({a}.accepted_at, {a}.delivered_at, {a}.read_at) IS NOT NULL", "accepted"),
    ("{a}.read_at IS NOT NULL", "read"),
    ("{a}.delivered_at IS NOT NULL", "delivered"),
    ("{a}.failed_at IS NOT NULL", "failed"),
    ("{a}.timed_out_at IS NOT NULL", "timed_out"),
    ("{a}.accepted_at IS NOT NULL", "accepted"),
    # What a provider told us goes before what we only know of ourselves.
    ("{a}.unconfirmed_at IS NOT NULL", "unconfirmed"),
    ("{a}.held_back_at IS NOT NULL", "held_back"),
    ("{a}.cancelled_at IS NOT NULL", "cancelled"),
    ("{a}.expired_at IS NOT NULL", "expired"),
    ("{a}.begun_at IS NOT NULL", "sending"),
)
"""``(condition on the attempt {a}, state)``; first match wins, else ``queued``."""

_QUEUED = "queued"
ATTEMPT_STATES: tuple[str, ...] = (
    _QUEUED,
    "sending",
    "accepted",
    "read",
    "delivered",
    "failed",
    "timed_out",
    "unconfirmed",
    "held_back",
    "cancelled",
    "expired",
)
ATTEMPT_LABELS = {
    _QUEUED: "Waiting to be sent",
    "sending": "Being sent",
    "accepted": "Sent, nothing heard yet",
    "read": "Read",
    "delivered": "Delivered",
    "failed": "Failed",
    "timed_out": "Failed: nothing heard in time",
    "unconfirmed": "Unconfirmed: may or may not have been sent",
    "held_back": "Held back: had this message before",
    "cancelled": "Cancelled before it was sent",
    "expired": "Expired before it was sent",
}


@dataclass(frozen=True, slots=True)
class PatientFacts:
    """SQL of what the rule for patients asks; states are those of ``attempt_state_sql``."""

    channel: str
    """Of the primary attempt."""
    primary: str
    fallback: str
    """State of the fallback attempt; NULL when there is none."""
    may_fall_back: str
    """Condition: ``may_fall_back_sql`` of the primary attempt."""
    no_fallback: str
    """Condition: the fallback was due and could not go."""


def facts(primary: str, primary_state: str, fallback_state: str) -> PatientFacts:
    """The facts for a primary attempt under alias ``primary`` and SQL for both states."""
    return PatientFacts(
        channel=f"{primary}.channel",
        primary=primary_state,
        fallback=fallback_state,
        may_fall_back=may_fall_back_sql(primary),
        no_fallback=f"{primary}.no_fallback_at IS NOT NULL",
    )


PATIENT_CLASSES: tuple[str, ...] = (
    "emailed",
    "delivered",
    "failed",
    "awaiting",
    "cancelled",
    "expired",
    "unconfirmed",
    "held_back",
)

PATIENT_RULE: tuple[tuple[str, str], ...] = (
    ("{channel} = 'email' AND {primary} = 'accepted'", "emailed"),
    # A delivery wins over everything said before or after, on either channel.
    ("{primary} IN ('read', 'delivered')", "delivered"),
    ("{fallback} IN ('read', 'delivered')", "delivered"),
    ("{primary} = 'held_back'", "held_back"),
    ("{primary} = 'cancelled'", "cancelled"),
    ("{primary} = 'expired'", "expired"),
    ("{fallback} IN ('queued', 'sending', 'accepted')", "awaiting"),
    ("{fallback} = 'unconfirmed'", "unconfirmed"),
    # A message was sent and never confirmed; what was to follow failed, or was cancelled or expired.
    ("{fallback} IS NOT NULL", "failed"),
    ("{no_fallback}", "failed"),
    ("{primary} IN ('failed', 'timed_out') AND NOT ({may_fall_back})", "failed"),
    ("{primary} = 'unconfirmed'", "unconfirmed"),
)
"""``(condition, class)``; first match wins, else ``awaiting``."""

ENDED_RULE: tuple[tuple[str, bool], ...] = (
    ("{primary} IN ('held_back', 'cancelled', 'expired')", True),
    # A fallback that wasn't begun when its patient read in the App is never sent.
    ("{primary} = 'read' AND {fallback} = 'queued'", True),
    # Any other unsettled fallback keeps the patient open, even one whom the App reached meanwhile.
    ("{fallback} IN ('queued', 'sending', 'accepted')", False),
    ("{fallback} IS NOT NULL", True),
    ("{primary} IN ('read', 'unconfirmed')", True),
    ("{channel} = 'email' AND {primary} = 'accepted'", True),
    ("{no_fallback}", True),
    # "Delivered" by the App is still unread: only a read stops the fallback clock.
    ("{primary} IN ('delivered', 'failed', 'timed_out') AND NOT ({may_fall_back})", True),
)
"""``(condition, whether nothing more is to come and no clock runs)``; first match wins, else it isn't the end."""


def attempt_state_sql(attempt: str) -> str:
    """SQL text value: the state of the attempt whose row stands under the alias ``attempt``."""
    branches = (f"WHEN {when.format(a=attempt)} THEN '{state}'" for when, state in ATTEMPT_RULE)
    return f"CASE {' '.join(branches)} ELSE '{_QUEUED}' END"


def attempt_state_number_sql(attempt: str) -> str:
    """SQL integer: the state's place in ``ATTEMPT_STATES``. For counting a million attempts, numbers are quicker."""
    branches = (f"WHEN {when.format(a=attempt)} THEN {ATTEMPT_STATES.index(state)}" for when, state in ATTEMPT_RULE)
    return f"CASE {' '.join(branches)} ELSE {ATTEMPT_STATES.index(_QUEUED)} END"


def fallback_state_sql(attempt: str) -> str:
    """As ``attempt_state_sql``; NULL where an outer join found no fallback attempt."""
    return f"CASE WHEN {attempt}.step IS NOT NULL THEN {attempt_state_sql(attempt)} END"


def patient_class_sql(known: PatientFacts) -> str:
    """SQL text value: the one of ``PATIENT_CLASSES`` that the patient is in."""
    branches = (f"WHEN {_fill(when, known)} THEN '{patient_class}'" for when, patient_class in PATIENT_RULE)
    return f"CASE {' '.join(branches)} ELSE 'awaiting' END"


def ended_sql(known: PatientFacts) -> str:
    """SQL integer: 1 when the patient is in an end state and no fallback clock runs, else 0."""
    branches = (f"WHEN {_fill(when, known)} THEN {int(ended)}" for when, ended in ENDED_RULE)
    return f"CASE {' '.join(branches)} ELSE 0 END"


def may_fall_back_sql(attempt: str, window: str = "fallback_after") -> str:
    """SQL condition: the attempt has a fallback window, and a moment from which it can run.

    A message that is under way has, as its acceptance will be told. One that is unconfirmed, or that a person said
    wasn't sent, has none while it is only known to be delivered: nobody knows when it was accepted. It has ended, and a
    person follows it up.
    ``window``: the column that is NULL for messages without a fallback.
    """
    return (
        f"({attempt}.{window} IS NOT NULL AND"
        f" (coalesce({attempt}.accepted_at, {attempt}.failed_at) IS NOT NULL"
        f" OR {attempt}.begun_at IS NOT NULL AND {attempt}.unconfirmed_at IS NULL))"
    )


def taken_sql(attempt: str) -> str:
    """SQL condition: a provider took the message, whatever became of it; what is charged for (SPEC 2.10).

    A message that the provider refused outright (``failure_kind`` ``refused``) was not taken; one of which only a
    later failure is known was.
    """
    return (
        f"(coalesce({attempt}.accepted_at, {attempt}.delivered_at, {attempt}.read_at) IS NOT NULL"
        f" OR {attempt}.failed_at IS NOT NULL AND coalesce({attempt}.failure_kind, '') <> 'refused')"
    )


def _fill(template: str, known: PatientFacts) -> str:
    return template.format_map(asdict(known))


AWAITING_APPROVAL = "Awaiting approval"
SCHEDULED = "Scheduled"
SENDING = "Sending"
DONE = "Done"
CANCELLED = "Cancelled"
SAVING = "Saving"
SAVED = "Saved"


@dataclass(frozen=True, slots=True)
class BatchFacts:
    """What a batch's label follows from."""

    approved: bool
    """The current plan is approved."""
    outbox_written: bool
    begun: bool
    """Some attempt has been claimed for sending."""
    all_ended: bool
    """Every patient of the outbox has ended; true for an outbox without patients."""
    cancelled: bool
    paused: bool
    saving: bool
    """Some entry of it was claimed for the record."""
    all_saved: bool
    """Every message of it that was sent, or failed, is in the record."""
    reminds: bool = False
    """Somebody may yet be reminded."""


def batch_status(known: BatchFacts) -> str:
    """The label of SPEC 2.10. *Paused* stands beside it: see ``shown_status``.

    Delivery and saving are two facts. Delivery goes first: while it is under way, or was cancelled, the label tells of
    that, however much is in the record already. When it is done, saving takes its place from the first entry on; a
    batch that saves nothing stays as it is.
    """
    if known.cancelled:
        return CANCELLED
    if known.outbox_written and known.all_ended:
        return _done(known)
    if known.begun:
        return SENDING
    if known.approved or known.outbox_written:
        return SCHEDULED
    return AWAITING_APPROVAL


def _done(known: BatchFacts) -> str:
    if not known.saving:
        return DONE
    return SAVED if known.all_saved else SAVING


def shows_paused(known: BatchFacts) -> bool:
    """Whether *Paused* stands beside the label: not where nothing is left to pause.

    Of a cancelled batch that was being sent, fallbacks may be left; of one that is done, reminders.
    """
    label = batch_status(known)
    over = (label in {DONE, SAVING, SAVED} and not known.reminds) or (
        label == CANCELLED and (known.all_ended or not known.outbox_written)
    )
    return known.paused and not over


def shown_status(known: BatchFacts) -> str:
    """The label for a person, with "(paused)" beside it."""
    return f"{batch_status(known)} (paused)" if shows_paused(known) else batch_status(known)
