"""Of whom an SMTP server's no speaks: of the recipient, of us, or of either. By its codes alone.

The registry of enhanced codes (RFC 3463, 5248, 7372, 7504, 7505) says what each means; servers say what they use:

- Postfix refuses client, HELO and sender at RCPT too, so these codes come there: 5.1.7 and 5.1.8 are the *sender's*
  address. "Relay access denied" is 554 5.7.1, and 454 4.7.1 as shipped.
- Exim says 550 and nothing more, for "relay not permitted" as for "Unrouteable address".
- Exchange: 5.7.54, 5.7.57, 5.7.60, 5.7.64 and some above 100 are ours; 5.7.1 is a blocked recipient, a spam verdict or
  "Unable to relay".
- Gmail: 555 5.5.2 is an odd recipient, 550 5.4.5 our quota.

What is called ours ends the run at one message, and would end it each time for an odd recipient: so only what can't be
one is. What is called the recipient's fails everybody if it is ours. The rest is for ``RefusalsInARow`` to tell.
"""

import re

from batch_pipeline.providers._smtp_session import Reply

_ACCOUNT = "look at smtp.host, smtp.port and smtp.username, or ask who runs it to let this account and machine send"
_LOG_IN = "check smtp.username and its password, or ask who runs it how to log in"
_SENDER = "it doesn't take our sender: check smtp.bounce_address and smtp.from_address, or have them allowed"
_QUOTA = "this account may send no more for now: ask who runs it, and dispatch again when it may"

_OF_US: tuple[tuple[str, str], ...] = (
    (r"(530|534|535|538)( .*)?", _LOG_IN),  # RFC 4954, 6
    (r"5\d\d 5\.7\.(8|9|11|12|13|14|57|139)", _LOG_IN),
    (r"5\d\d 5\.(1\.[78]|2\.252|7\.(27|60|750))", _SENDER),
    (r"5\d\d 5\.(4\.5|7\.(232|233|705))", _QUOTA),
    (r"5\d\d 5\.7\.(54|64|708)", _ACCOUNT),
    (r"(500|502|503)( .*)?", _ACCOUNT),  # it doesn't know a command that every server knows, or not now
)
_OF_THE_RECIPIENT = re.compile(
    r"(551|556)( .*)?"  # RFC 5321, 4.2.3; RFC 7504
    r"|5\d\d 5\.(1\.([1-69]|10)|2\.[1-4]|4\.([2-46-9]|14)|6\.7|7\.(2|17|18|124|13[0-6]))",
)
_OF_THE_MAILBOX_FOR_NOW = re.compile(r"4\d\d 4\.(1\.([1-69]|10)|2\.\d+)")
_PERHAPS_OF_THE_MAILBOX = re.compile(r"4\d\d 4\.(1\.0|7\.1)|450( .*)?")
_NOT_OF_THE_MAILBOX = re.compile(r"(421|454)( .*)?|4\d\d 4\.1\.[78]")
"""454 is about logging in and TLS (RFC 3207, 4954), and Postfix's "Relay access denied"."""


def mend(reply: Reply) -> str | None:
    """What can be done about a permanent no that speaks of us; ``None`` for one that may be the recipient's."""
    return next((mend for pattern, mend in _OF_US if re.fullmatch(pattern, reply.codes)), None)


def is_of_the_recipient(reply: Reply) -> bool:
    """Of a permanent no: whether it is this recipient's alone."""
    return _OF_THE_RECIPIENT.fullmatch(reply.codes) is not None


def is_of_the_mailbox_for_now(reply: Reply) -> bool:
    """Of a temporary no: whether it is this recipient's alone, such as a full mailbox."""
    return _OF_THE_MAILBOX_FOR_NOW.fullmatch(reply.codes) is not None and not _is_ours_for_now(reply)


def is_perhaps_of_the_mailbox_for_now(reply: Reply) -> bool:
    """Greylisting looks like this, and a server that doesn't know this machine's name does as well."""
    return _PERHAPS_OF_THE_MAILBOX.fullmatch(reply.codes) is not None and not _is_ours_for_now(reply)


def _is_ours_for_now(reply: Reply) -> bool:
    return _NOT_OF_THE_MAILBOX.fullmatch(reply.codes) is not None
