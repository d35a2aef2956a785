"""Of whom a 400 of GOV.UK Notify speaks: nearly all have one name, so only their words tell.

The words come from its public source (alphagov/notifications-api: app/notifications/validators.py,
process_notifications.py and app/schema_validation) and documentation (alphagov/notifications-tech-docs: error_tables).
It says there that they can change: so what isn't in these tables may be either, and ``RefusalsInARow`` tells. They are
looked at here, and go no further: they may quote a number.
"""

import re
from collections.abc import Iterable

_OF_US: tuple[tuple[str, str], ...] = (
    (r"team-only api key", "this key reaches the service's own team and guests only: put a live key in its place"),
    (r"service is in trial mode", "the service is in trial mode: ask GOV.UK Notify to make it live"),
    (r"^service is not allowed to send", "switch this channel on in the service's settings"),
    (r"^template not found", "copy the template's id again from GOV.UK Notify"),
    (r"^template has been deleted", "the template was deleted: make one, and name it"),
    (r"template is not suitable for", "the template is one for another channel: name one for this"),
    (r"^missing personalisation", "the template has other fields than its text: mend it as the documentation says"),
    (
        r"does not exist in database for service id",
        "check govuk_notify.sms_sender_id and govuk_notify.email_reply_to_id",
    ),
    (r"(template|sender|reply_to)_id is not a valid uuid", "copy the ids again from GOV.UK Notify"),
    (
        r"is a required property|^additional properties are not allowed",
        "it wants its posts written otherwise: report it",
    ),
)
_RECIPIENTS_NAMES = {"InvalidPhoneError", "InvalidEmailError"}
_OF_THE_RECIPIENT = re.compile(
    r"^(phone_number|email_address) "
    r"|^cannot send to international mobile numbers"
    r"|^(not enough digits|too many digits|not a uk mobile number|must not contain letters or symbols)"
    r"|^(not a valid country prefix|not a valid email address)"
)


def mend(words: Iterable[str]) -> str | None:
    """What can be done about a 400 with these words that speaks of us; ``None`` for one that may be the recipient's."""
    told = [one.casefold() for one in words]
    return next((mend for pattern, mend in _OF_US if any(re.search(pattern, one) for one in told)), None)


def is_of_the_recipient(name: str, words: Iterable[str]) -> bool:
    """Of another 400: whether it is this recipient's alone."""
    told = [one.casefold() for one in words]
    return name in _RECIPIENTS_NAMES or (bool(told) and all(_OF_THE_RECIPIENT.search(one) for one in told))
