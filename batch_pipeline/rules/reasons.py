"""Why a patient can't be reached, and what to do about it: labels, order and remedies as data (SPEC 2.3, 2.9, 2.11).

When each reason holds stands in ``contactability``. The order of ``REASONS`` is the SPEC's: of all reasons that
hold, the first one here is the primary one.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Reason:
    """One reason, as practice staff see it."""

    code: str
    label: str
    when: str
    remedy: str


@dataclass(frozen=True, slots=True)
class SubReason:
    """What exactly stands behind a reason, with a remedy of its own."""

    code: str
    reason: str
    label: str
    remedy: str


REASONS: tuple[Reason, ...] = (
    Reason(
        "deceased",
        "Patient deceased",
        "the file, PDS or an earlier message's answer says that the patient has died",
        "Do not contact. Check the record; if the patient is alive, correct it and submit the patient again.",
    ),
    Reason(
        "unable_to_retrieve",
        "Unable to retrieve contact details",
        "the details had to be looked up and could not be, or the record may not be used",
        "Try again later: no new upload is needed. If it stays so, check the patient's registration.",
    ),
    Reason(
        "opted_out",
        "Patient opted out",
        "the patient is on the organisation's opt-out list, for all channels or for the one that was needed",
        "Respect the choice. Write or call only if care can't wait, and ask whether it still stands.",
    ),
    Reason(
        "not_provided",
        "Contact details not provided",
        "there is no contact detail that the message needs",
        "Ask the patient for a mobile number (or email address) at the next contact and add it to the record.",
    ),
    Reason(
        "not_uk",
        "Not a UK phone number",
        "the number isn't a valid +44 number",
        "Check the number in the record for a slip; if it is foreign, ask for a UK mobile or write.",
    ),
    Reason(
        "likely_to_fail",
        "Mobile number is likely to fail",
        "the last text to this number in the past 3 months failed, and none has been delivered since",
        "Ask the patient whether the number is still theirs and correct the record; until then write or call.",
    ),
)

SUB_REASONS: tuple[SubReason, ...] = (
    SubReason(
        "look_up_failed",
        "unable_to_retrieve",
        "Look-up failed",
        "Try again later: no new upload is needed.",
    ),
    SubReason(
        "restricted",
        "unable_to_retrieve",
        "Record is restricted",
        "Do not message. Follow the organisation's procedure for restricted records.",
    ),
    SubReason(
        "invalidated",
        "unable_to_retrieve",
        "NHS number is no longer valid",
        "Trace the patient's current NHS number and correct the record.",
    ),
    SubReason(
        "exit_coded",
        "unable_to_retrieve",
        "No longer registered",
        "Check whether the patient has moved or left; take them off the list if so.",
    ),
    SubReason(
        "not_found",
        "unable_to_retrieve",
        "NHS number not found",
        "Check the NHS number in the record: PDS doesn't know it.",
    ),
    SubReason(
        "other_person",
        "unable_to_retrieve",
        "NHS number of somebody else",
        "Check the NHS number and the date of birth in the record: PDS has another date of birth for this number.",
    ),
    SubReason(
        "landline_only",
        "not_provided",
        "Only a landline is held",
        "Call the landline, or ask the patient for a mobile number.",
    ),
    SubReason(
        "not_mobile",
        "not_provided",
        "The number can't receive texts",
        "It is a 070, pager, freephone or similar number: ask the patient for a mobile number.",
    ),
)

CODES: tuple[str, ...] = tuple(reason.code for reason in REASONS)
REASON: Mapping[str, Reason] = {reason.code: reason for reason in REASONS}
SUB_REASON: Mapping[str, SubReason] = {sub.code: sub for sub in SUB_REASONS}
WITHOUT_VALID_MOBILE = frozenset({"not_provided", "not_uk"})
"""Primary reasons of the figure "Patients without a valid mobile number" (SPEC 2.10)."""


def primary(codes: Iterable[str]) -> str | None:
    """The first of these reasons in the SPEC's order, or None when there is none. ``KeyError`` for an unknown code."""
    held = {REASON[code].code for code in codes}
    return next((code for code in CODES if code in held), None)


@dataclass(frozen=True, slots=True)
class NoFallback:
    """Why an App message that was due to fall back could not: ``attempts.no_fallback_because``."""

    code: str
    label: str
    remedy: str


NO_FALLBACK: tuple[NoFallback, ...] = (
    NoFallback("no_number", "No mobile number to text", "Call or write, and ask the patient for a mobile number."),
    NoFallback("deceased", "Patient deceased", REASON["deceased"].remedy),
    NoFallback("invalidated", "NHS number is no longer valid", SUB_REASON["invalidated"].remedy),
    NoFallback("exit_coded", "No longer registered", SUB_REASON["exit_coded"].remedy),
    NoFallback("opted_out", "Patient opted out", REASON["opted_out"].remedy),
    NoFallback("likely_to_fail", "Mobile number is likely to fail", REASON["likely_to_fail"].remedy),
    NoFallback("link_revoked", "The link was revoked", "Nothing, unless the patient needs a new message."),
    NoFallback("cancelled", "Cancelled with its fallbacks", "Nothing, unless the patient still needs the message."),
    NoFallback("expired", "Too late to send", "Call or write if the message still matters."),
)

NO_FALLBACK_BECAUSE: tuple[str, ...] = tuple(because.code for because in NO_FALLBACK)
