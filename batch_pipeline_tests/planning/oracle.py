"""What SPEC 2.3 and 2.4 say of a patient, in plain Python: written by hand from the page, before and without the code.

Nothing of batch_pipeline is imported here. Where the page leaves a choice, the reading is named in a comment.
"""

from dataclasses import dataclass, field

EVERYTHING = frozenset({"email", "nhs_app", "sms"})
ORGANISATIONS = ("gp", "non_gp")
NATIONS = ("england", "scotland", "wales", "northern_ireland")
MESSAGES = ("simple", "questionnaire", "self_book")
EMAILS = ("none", "bad", "good")
APPS = ("none", "off", "on", "stale")  # stale: notifications on, in a snapshot older than 7 days
PHONES = ("none", "landline", "foreign", "malformed", "mobile", "likely_to_fail")

# SPEC 2.4, the table: email in CSV | no email, has the NHS App | neither
PATH_TABLE = {
    ("gp", "simple"): ("email", "nhs_app", "sms"),
    ("gp", "questionnaire"): ("email", "nhs_app", "sms"),
    ("gp", "self_book"): ("sms", "nhs_app", "sms"),
    ("non_gp", "simple"): ("email", "sms", "sms"),
    ("non_gp", "questionnaire"): ("email", "sms", "sms"),
    ("non_gp", "self_book"): ("sms", "sms", "sms"),
}

# SPEC 2.3: what is wrong with a number, as (reason, sub-reason); a usable one has nothing wrong.
# "malformed numbers are not_uk" (the number isn't a valid +44 number).
NUMBER_FAULTS = {
    "none": ("not_provided", None),
    "landline": ("not_provided", "landline_only"),
    "not_mobile": ("not_provided", "not_mobile"),
    "foreign": ("not_uk", None),
    "malformed": ("not_uk", None),
    "likely_to_fail": ("likely_to_fail", None),
    "mobile": None,
}

# SPEC 2.3: the order in which they are told.
ORDER = ("deceased", "unable_to_retrieve", "opted_out", "not_provided", "not_uk", "likely_to_fail")


@dataclass(frozen=True)
class Case:
    """One patient in one kind of batch."""

    organisation: str
    nation: str
    message: str
    email: str
    app: str
    phone: str
    deceased: bool = False
    unable: str | None = None
    """Why the record may not be used: restricted, invalidated, or no longer registered (exit-coded)."""
    opted_out: frozenset[str] = frozenset()
    """Channels; all three is an opt-out of everything."""
    exclude_likely_to_fail: bool = True
    self_book_ignores_email: bool = False


@dataclass(frozen=True)
class Expected:
    """What becomes of them."""

    contactable: bool
    path: str
    """The channel the table chooses; for a patient who can't be contacted, the one that was missing."""
    primary: str | None
    reasons: tuple[str, ...] = field(default=())
    sub_reason: str | None = None
    """Of the primary reason: what kind of number was there instead of a mobile; why the record may not be used."""
    no_sms_fallback: bool = False


def expected(case: Case) -> Expected:
    """What SPEC 2.3 and 2.4 say of this case."""
    # "Opted out of one channel: that channel's detail is unusable": as if it weren't there. Opted out of everything
    # is opted out of each.
    closed = case.opted_out

    # "A malformed email counts as absent"
    has_email = case.email == "good" and "email" not in closed
    # "The NHS App is open to GP organisations in England only, and to patients whose account has notifications on";
    # a snapshot "older than 7 [days] counts as unknown".
    has_app = case.organisation == "gp" and case.nation == "england" and case.app == "on" and "nhs_app" not in closed
    # "workspace switch exclude_likely_to_fail on"
    phone = "mobile" if case.phone == "likely_to_fail" and not case.exclude_likely_to_fail else case.phone
    number_fault = NUMBER_FAULTS[phone]
    usable_number = number_fault is None and "sms" not in closed

    with_email, with_app, neither = PATH_TABLE[case.organisation, case.message]
    if has_email and with_email == "email":
        path = "email"
    elif has_email and not (case.self_book_ignores_email and has_app):
        path = with_email
    elif has_app:
        path = with_app
    else:
        path = neither

    reasons: dict[str, str | None] = {}  # with their sub-reasons
    if case.deceased:
        reasons["deceased"] = None
    if case.unable:
        reasons["unable_to_retrieve"] = case.unable
    # "the patient is non-contactable only if the path needs that number"
    if path == "sms" and not usable_number:
        if number_fault is not None:
            reasons[number_fault[0]] = number_fault[1]
        if (
            "sms" in closed
            or ("email" in closed and case.email == "good")
            or ("nhs_app" in closed and case.app == "on")
        ):
            # Reading: an opt-out is a reason when it took the channel that was needed, or a detail that we hold, and
            # nothing else is left.
            reasons["opted_out"] = None
    # "opted_out: on the list, for all channels": nothing may be sent, whatever is left.
    if closed == EVERYTHING:
        reasons["opted_out"] = None
    listed = tuple(reason for reason in ORDER if reason in reasons)
    return Expected(
        contactable=not listed,
        path=path,
        primary=listed[0] if listed else None,
        reasons=listed,
        # Reading: sub-reasons are told of the primary reason alone.
        sub_reason=reasons[listed[0]] if listed else None,
        # With the App but no usable mobile: sent by the App, marked.
        no_sms_fallback=path == "nhs_app" and not listed and not usable_number,
    )


def all_cases() -> list[Case]:
    """Every combination that issue 2 asks for: 1,728."""
    return [
        Case(organisation, nation, message, email, app, phone)
        for organisation in ORGANISATIONS
        for nation in NATIONS
        for message in MESSAGES
        for email in EMAILS
        for app in APPS
        for phone in PHONES
    ]
