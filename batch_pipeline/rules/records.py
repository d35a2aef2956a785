"""When a message is written to the patient's record, and as what (SPEC 2.13).

An entry is written once and never again. So it waits until nothing that a provider may still tell makes it untrue:
*completed* stands for a message that went, *not-done* for one that failed. What was accepted may fail, an email may
bounce after days, a failure may be followed by a delivery that was told late. Each of these has its time in the table
below, and when it is over the entry is written as things stand. A delivery can't be undone, so it is written at once.

No entry is made of what was never begun, cancelled, held back or expired; nor of what nobody knows to have gone
(unconfirmed), before a person has found out.
"""

from dataclasses import dataclass
from datetime import timedelta

from batch_pipeline.rules.states import attempt_state_sql

COMPLETED = "completed"
NOT_DONE = "not-done"

RECORDED_STATES: tuple[str, ...] = ("accepted", "read", "delivered", "failed", "timed_out")
"""Attempts in one of these states are written to the record, sooner or later, whatever else is told of them."""

AT_ONCE = timedelta(0)
LATE_NEWS = timedelta(days=1)
"""In this time a delivery is told of that was overtaken by a failure: providers repeat a callback for a few hours."""
APP_IS_SILENT = timedelta(hours=72)
"""The App says within a day that it can't notify a patient; of the rest nothing more may ever be heard."""
MAIL_GIVES_UP = timedelta(days=5)
"""A mail server tries for four to five days (RFC 5321, 4.5.4.1) before it lets an email bounce."""


@dataclass(frozen=True, slots=True)
class EntryRule:
    """One line of the table."""

    when: str
    """Condition on an attempt {a} in its state {state}."""
    status: str
    since: str
    """The moment from which the time runs: a column of the attempt."""
    wait: timedelta


ENTRY_RULES: tuple[EntryRule, ...] = (
    EntryRule("{state} IN ('read', 'delivered')", COMPLETED, "queued_at", AT_ONCE),
    # It was never taken; and a bounce goes before whatever else is told of an email.
    EntryRule(
        "{state} = 'failed' AND {a}.failure_kind = 'refused' AND {a}.accepted_at IS NULL",
        NOT_DONE,
        "queued_at",
        AT_ONCE,
    ),
    EntryRule("{state} = 'failed' AND {a}.channel = 'email'", NOT_DONE, "queued_at", AT_ONCE),
    EntryRule("{state} = 'failed'", NOT_DONE, "failed_at", LATE_NEWS),
    # Three days have gone by already.
    EntryRule("{state} = 'timed_out'", NOT_DONE, "queued_at", AT_ONCE),
    EntryRule(
        "{state} = 'accepted' AND {a}.channel = 'email' AND coalesce({a}.delivered_at, {a}.read_at) IS NOT NULL",
        COMPLETED,
        "queued_at",
        AT_ONCE,
    ),
    EntryRule("{state} = 'accepted' AND {a}.channel = 'email'", COMPLETED, "accepted_at", MAIL_GIVES_UP),
    EntryRule("{state} = 'accepted' AND {a}.channel = 'nhs_app'", COMPLETED, "accepted_at", APP_IS_SILENT),
)
"""First match wins. A text that was accepted waits: it is delivered, fails, or is timed out in the end."""


def entry_status_sql(attempt: str) -> str:
    """SQL text value: ``completed`` or ``not-done``; NULL where the attempt under that alias has no entry yet."""
    branches = (f"WHEN {_condition(rule, attempt)} THEN '{rule.status}'" for rule in ENTRY_RULES)
    return f"CASE {' '.join(branches)} END"


def certain_at_sql(attempt: str) -> str:
    """SQL integer, microseconds since 1970: the moment from which the entry is true for ever; NULL where it has none."""
    branches = (
        f"WHEN {_condition(rule, attempt)} THEN {attempt}.{rule.since} + {rule.wait // timedelta(microseconds=1)}"
        for rule in ENTRY_RULES
    )
    return f"CASE {' '.join(branches)} END"


def told_or_old_sql(attempt: str, now: str) -> str:
    """SQL condition that whatever is certain by ``now`` (microseconds) fulfils, and most of what waits doesn't.

    It is a tenth of the work: asked first, of each of a million messages of which nothing is heard yet.
    """
    told = ", ".join(f"{attempt}.{column}" for column in ("delivered_at", "read_at", "failed_at", "timed_out_at"))
    silence = min(APP_IS_SILENT, MAIL_GIVES_UP) // timedelta(microseconds=1)
    return f"(coalesce({told}) IS NOT NULL OR {attempt}.accepted_at <= {now} - {silence})"


def recorded_sql(attempt: str) -> str:
    """SQL condition: the attempt is in one of ``RECORDED_STATES``."""
    return f"{attempt_state_sql(attempt)} IN ({', '.join(map(repr, RECORDED_STATES))})"


def _condition(rule: EntryRule, attempt: str) -> str:
    return rule.when.format(a=attempt, state=f"({attempt_state_sql(attempt)})")


_FAILURES = {
    "refused": "refused by the provider, and not sent",
    "rejected": "rejected",
    "permanent": "permanent failure",
    "temporary": "temporary failure",
    "technical": "technical failure",
}


def why_not_done(state: str, failure_kind: str | None, failure_code: str | None) -> str:
    """The words for a message in a state that is written as ``not-done``."""
    if state == "timed_out":
        return "Not delivered: no delivery report came in time"
    why = _FAILURES.get(failure_kind or "", "failed")
    return f"Not delivered: {why}" + (f" ({failure_code})" if failure_code else "")
