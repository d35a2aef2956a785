"""Whom a person should look after once a batch has ended, why, and what to do (SPEC 2.9, 2.11), as data."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass

from batch_pipeline.rules.states import PatientFacts, ended_sql, patient_class_sql


@dataclass(frozen=True, slots=True)
class FollowUp:
    """One kind of follow-up, as practice staff see it."""

    code: str
    label: str
    remedy: str


FOLLOW_UPS: tuple[FollowUp, ...] = (
    FollowUp(
        "unconfirmed",
        "Unconfirmed: may or may not have been sent",
        "Ask the provider, or the patient, whether it came. It is never sent again by itself.",
    ),
    FollowUp(
        "unread_no_fallback",
        "Not read in the NHS App, and no text could follow",
        "Call or write, and ask the patient for a mobile number.",
    ),
    FollowUp(
        "failed",
        "Failed to deliver",
        "Call or write, and check the number or address in the record.",
    ),
    FollowUp(
        "unread",
        "Delivered to the NHS App, never read, and the text that followed did not arrive",
        "Call or write if the message matters, and check the number in the record.",
    ),
    FollowUp(
        "link_locked",
        "The link is locked: a wrong date of birth was given five times",
        "Check the date of birth with the patient and in the record. If it is right there, unlock the link: "
        "batch-pipeline unlock BATCH --line N --by NAME.",
    ),
)
FOLLOW_UP: Mapping[str, FollowUp] = {follow_up.code: follow_up for follow_up in FOLLOW_UPS}

FOLLOW_UP_RULE: tuple[tuple[str, str], ...] = (
    ("{patient_class} = 'unconfirmed'", "unconfirmed"),
    # The App confirmed the delivery, so it counts as delivered; whether the text went is still a question.
    ("{fallback} = 'unconfirmed' AND {primary} = 'delivered'", "unconfirmed"),
    (
        "{channel} = 'nhs_app' AND {primary} IN ('accepted', 'delivered') AND {fallback} IS NULL AND {no_fallback}",
        "unread_no_fallback",
    ),
    ("{patient_class} = 'failed'", "failed"),
    # A fallback that was confirmed is no reason to look after anybody; all other ends of one are.
    ("{channel} = 'nhs_app' AND {primary} = 'delivered' AND {ended} = 1 AND NOT ({fell_back})", "unread"),
)
"""``(condition, follow-up)``; first match wins, else there is nothing to follow up but a link that is locked."""
LOCKED = "link_locked"

FAILURES: Mapping[str, str] = {
    "permanent": "failed for good: the number or address doesn't take messages",
    "temporary": "failed: the phone or mailbox couldn't be reached",
    "technical": "technical failure on the way",
    "rejected": "rejected",
    "refused": "refused by the provider",
}
"""``attempts.failure_kind`` in words."""


def follow_up_sql(known: PatientFacts) -> str:
    """SQL text value: the one of ``FOLLOW_UPS`` that the patient needs now, or NULL."""
    terms = {
        **asdict(known),
        "patient_class": f"({patient_class_sql(known)})",
        "ended": f"({ended_sql(known)})",
        "fell_back": f"coalesce({known.fallback}, '') IN ('read', 'delivered')",
    }
    branches = (f"WHEN {when.format_map(terms)} THEN '{code}'" for when, code in FOLLOW_UP_RULE)
    return f"CASE {' '.join(branches)} END"
