"""Email through an organisation's own mail relay, by SMTP (RFC 5321).

Nothing can be asked after an unknown outcome, and a message posted again is a message twice: so everything hangs on
knowing at which moment of the dialogue a call ended. Until the final dot of the message is sent, a server that loses
the connection must drop what it has, and the message was surely not taken. Between the dot and its answer nobody
knows. One message goes in a call, so that at most one is in that moment whatever dies.
"""

import ipaddress
import re
import ssl
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.headerregistry import Address
from email.message import EmailMessage
from email.policy import SMTP, SMTPUTF8
from pathlib import Path
from typing import Literal, NoReturn

from typing_extensions import override

from batch_pipeline.errors import Refused
from batch_pipeline.providers import _smtp_refusals as refusals
from batch_pipeline.providers._reference_tokens import SHORTEST_KEY, ReferenceTokens
from batch_pipeline.providers._refusals_in_a_row import RefusalsInARow
from batch_pipeline.providers._smtp_session import Lost, Reply, Session
from batch_pipeline.providers.protocol import (
    Answer,
    ChunkTooLarge,
    Limits,
    NotTaken,
    OutcomeUnknown,
    OutgoingMessage,
    Provider,
    ProviderStopped,
    PutOff,
    Recovery,
    RefusedMessage,
)
from batch_pipeline.rules import markdown

Security = Literal["starttls", "tls", "none"]

ADDRESS_NOT_ASCII = "SMTP_ADDRESS_NOT_ASCII"
"""The address has letters outside ASCII before the @, and the server doesn't offer SMTPUTF8."""
ADDRESS_NOT_VALID = "SMTP_ADDRESS_NOT_VALID"
TOO_LARGE = "SMTP_TOO_LARGE"
"""Larger than the server says that it takes."""

_PAUSE = timedelta(minutes=1)
"""How long a server that puts us off is left alone."""
_SOON = timedelta(seconds=2)
"""After which a message is offered again that may have been refused because of us: others were tried meanwhile."""
_IDLE = 30.0
"""Seconds after which a kept connection isn't used again. Servers close idle ones after minutes, firewalls unasked."""
_MOST_MESSAGES = 100
"""Through one connection: many servers close it at a number of their own."""
_GOODBYE = 2.0
_LONGEST_LOCAL_PART = 64

_CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+")
_BARE_CONTROLS = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")
_ADDRESS = re.compile(r"[^\s\x00-\x1f\x7f-\x9f<>()\[\]\\\",:;@]{1,64}@[A-Za-z0-9](?:[A-Za-z0-9.-]{0,250}[A-Za-z0-9])?")
_HOST_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?")


@dataclass(frozen=True, slots=True)
class SmtpAccount:
    """Where mail goes out, and as whom. ``Refused`` names the setting that is wrong."""

    host: str
    port: int
    from_address: str
    """A no-reply address (SPEC 2.6)."""
    from_name: str
    bounce_address: str
    """The envelope's sender: bounces go there."""
    message_id_domain: str
    """A domain of ours, behind the @ of each ``Message-ID``; also how we introduce ourselves."""
    reference_key: bytes = field(repr=False)
    """Seals our reference in the ``Message-ID``. Under another key bounces of earlier messages aren't known any more."""
    security: Security = "starttls"
    """``none`` for a relay on this machine alone."""
    username: str | None = field(default=None, repr=False)
    password: str | None = field(default=None, repr=False)
    verp: bool = False
    """Whether the bounce address is made ``local+TOKEN@domain``, where it fits: for bounces that return no headers."""
    ca_bundle: Path | None = None
    """Certificates to trust in place of the machine's."""
    timeout: timedelta = timedelta(seconds=60)
    """Of one message: half for all that goes before the final dot, the rest for the answer to it."""
    per_minute: int | None = None
    connections: int = 4
    """At the same time, each with one message on its way."""

    def __post_init__(self) -> None:
        if self.security == "none" and not _is_loopback(self.host):
            raise Refused("smtp.security: none sends patients' mail in the clear: use starttls or tls")
        for name in ("from_address", "bounce_address"):
            if not (_ADDRESS.fullmatch(getattr(self, name)) and getattr(self, name).isascii()):
                raise Refused(f"smtp.{name} isn't an email address: write one as no-reply@surgery.example.org")
        if not _HOST_NAME.fullmatch(self.message_id_domain):
            raise Refused("smtp.message_id_domain isn't a domain: write one as surgery.example.org")
        if (self.username is None) != (self.password is None):
            raise Refused("smtp.username and smtp.password go together: give both or neither")
        if not all(text is None or text.isascii() for text in (self.username, self.password)):
            raise Refused("smtp.username and smtp.password can't hold letters outside ASCII: have the password changed")
        if len(self.reference_key) < SHORTEST_KEY:
            raise Refused(f"smtp.reference_key needs at least {SHORTEST_KEY} bytes")
        if self.connections < 1:
            raise Refused("smtp.connections has to be 1 or more")
        if self.timeout <= timedelta(0):
            raise Refused("smtp.timeout has to be longer than nothing")


@dataclass(frozen=True, slots=True)
class _Letter:
    """A message, ready to go."""

    reference: str
    sender: str
    recipient: str
    content: bytes
    """With dots doubled at the beginnings of lines, and without the final one."""
    needs_utf8: bool


class _Unsendable(Exception):
    """The message itself won't do; the argument is a code of ours."""


class _Gone(Exception):
    """A kept connection turned out to be gone before anything was at stake."""


class Smtp(Provider):
    """Sends email through one account; any number of threads at once, with a connection each.

    Args:
        account: where and as whom.
        steady: seconds by a clock that nobody sets.

    ``Refused`` where the account's certificates can't be read.
    """

    def __init__(self, account: SmtpAccount, *, steady: Callable[[], float] = time.monotonic) -> None:
        self._account = account
        self._steady = steady
        self._tokens = ReferenceTokens(account.reference_key)
        self._context = _context(account)
        self._idle: deque[Session] = deque()
        self._refused = RefusalsInARow()
        self._put_off = RefusalsInARow()

    def __repr__(self) -> str:
        return f"Smtp({self._account.host}:{self._account.port})"

    @property
    @override
    def name(self) -> str:
        return "smtp"

    @property
    @override
    def recovery(self) -> Recovery:
        return Recovery.NEITHER

    @property
    @override
    def limits(self) -> Limits:
        account = self._account
        return Limits(
            messages=1,
            timeout=account.timeout,
            per_minute=account.per_minute,
            account=f"{account.host}:{account.port}",
            one_by_one=True,
            at_once=account.connections,
        )

    @override
    def close(self) -> None:
        """Says goodbye on the connections that are kept. The provider can be used again after that."""
        with suppress(IndexError):
            while True:
                session = self._idle.pop()
                session.must_end(self._steady() + _GOODBYE)
                with suppress(OSError):
                    session.ask("QUIT")
                session.close()

    @override
    def held(self, references: Sequence[str]) -> set[str]:
        raise OutcomeUnknown("a mail server can't be asked what it has taken")

    # Sending -----------------------------------------------------------------------------------------------------

    @override
    def send(self, chunk_reference: str, messages: Sequence[OutgoingMessage], now: datetime) -> Answer:
        """Hands one message over.

        Finding the host's addresses is the system's, and may take longer than the time-out; nothing is sent after that.
        """
        if not messages:
            return Answer()
        if len(messages) > 1:
            raise ChunkTooLarge
        message = messages[0]
        if message.channel != "email":
            raise ProviderStopped(f"smtp carries email only: name another provider for {message.channel}")
        try:
            self._hand_over(self._letter(message, now))
        except _Unsendable as fault:
            return Answer(refused=[RefusedMessage(message.reference, str(fault))])
        self._refused.taken()
        self._put_off.taken()
        return Answer()

    def _hand_over(self, letter: _Letter) -> None:
        """``_Unsendable`` with the server's code where it refuses the message."""
        ends = self._steady() + self._account.timeout.total_seconds()
        dot_by = ends - self._account.timeout.total_seconds() / 2
        kept = self._kept()
        if kept is not None:
            with suppress(_Gone):
                self._carry(kept, letter, dot_by, ends)
                return
        self._carry(self._connect(dot_by), letter, dot_by, ends)

    def _carry(self, session: Session, letter: _Letter, dot_by: float, ends: float) -> None:
        """The whole dialogue for one message. Keeps the connection where both sides know how it stands."""
        in_step = False
        try:
            session.must_end(dot_by)
            try:
                self._offer(session, letter)
                self._send_content(session, letter)
            except OSError as error:
                # RFC 5321, 4.1.1.4: only the final dot tells the server to process the mail; and 4.1.1.10: a connection
                # that ends before it cancels the transaction.
                raise NotTaken(f"{self._account.host}, before the final dot: {_why(error)}", _PAUSE) from None
            session.must_end(ends)
            reply = self._finish(session)
            in_step = reply.code // 100 != 3 and reply.code != 421
            self._judge_final(letter, reply)
        except _Unsendable:
            in_step = in_step or self._reset(session)
            raise
        finally:
            self._keep_or_close(session, keep=in_step)

    def _offer(self, session: Session, letter: _Letter) -> None:
        """Everything up to the server's "go ahead"."""
        if letter.needs_utf8 and not session.has_extn("smtputf8"):
            raise _Unsendable(ADDRESS_NOT_ASCII)
        size = session.esmtp_features.get("size", "")
        if size.isdecimal() and 0 < int(size[:18]) < len(letter.content):
            raise _Unsendable(TOO_LARGE)
        self._begin(session, letter)
        reply = session.ask("RCPT", f"TO:<{letter.recipient}>")
        self._check_for_a_put_off(letter, reply)
        self._expect_for(letter, reply, "RCPT", 250, 251, 252)
        self._expect_for(letter, session.ask("DATA"), "DATA", 354)

    def _begin(self, session: Session, letter: _Letter) -> None:
        """MAIL: which also finds out whether a kept connection is still there."""
        try:
            reply = session.ask("MAIL", f"FROM:<{letter.sender}>" + " SMTPUTF8" * letter.needs_utf8)
        except OSError:
            if session.idle_since is not None:
                raise _Gone from None
            raise
        if reply.code == 421 and session.idle_since is not None:
            raise _Gone
        if reply.code == 552:  # this message may be too large: the sender isn't at fault
            self._refuse(letter, reply, "MAIL")
        self._expect(reply, "MAIL", 250)

    def _send_content(self, session: Session, letter: _Letter) -> None:
        session.send(letter.content)
        # A server that had enough before the dot says so, or hangs up: then the dot isn't sent, and all is known.
        if session.has_spoken():
            reply = session.reply()
            session.close()  # whatever we said now would be content
            self._expect_for(letter, reply, "DATA")

    def _finish(self, session: Session) -> Reply:
        """Sends the final dot. From here on nobody knows, until the server answers."""
        try:
            session.send(b".\r\n")
            reply = session.reply()
        except OSError as error:
            raise OutcomeUnknown(f"{self._account.host}, after the final dot: {_why(error)}") from None
        session.messages += 1
        return reply

    def _judge_final(self, letter: _Letter, reply: Reply) -> None:
        if reply.is_permanent:
            self._refuse(letter, reply, "the message")
        if reply.code // 100 == 4:
            raise NotTaken(f"{self._account.host} put the message off: {reply.codes}", _PAUSE)
        if not reply.is_positive:
            raise OutcomeUnknown(f"{self._account.host} answered the final dot with {reply.code}")

    def _expect_for(self, letter: _Letter, reply: Reply, stage: str, *codes: int) -> None:
        """A permanent no at this stage concerns this message, or us."""
        if reply.is_permanent:
            self._refuse(letter, reply, stage)
        self._expect(reply, stage, *codes)

    def _refuse(self, letter: _Letter, reply: Reply, stage: str) -> NoReturn:
        """Of a permanent no that may be the recipient's.

        While the account hasn't taken anything, one that may be ours as well isn't final at once: with several workers
        the others show within moments which it is, and nobody is failed for our fault.
        """
        if (mend := refusals.mend(reply)) is not None:
            self._stop(f"it refused {stage} with {reply.codes}: {mend}")
        if refusals.is_of_the_recipient(reply):
            raise _Unsendable(reply.name)
        is_new = self._refused.add(letter.reference)
        if self._refused.are_too_many:
            self._stop(
                f"it refused {stage} with {reply.codes}, as it did several messages in a row: it may not take mail from"
                " this account, machine or sender; look at the account's settings, or ask who runs it"
            )
        if is_new and not self._refused.has_taken:
            raise PutOff(f"{self._account.host} refused {stage} with {reply.codes}", _SOON)
        raise _Unsendable(reply.name)

    def _check_for_a_put_off(self, letter: _Letter, reply: Reply) -> None:
        """Raises where the recipient's mailbox is why a message is to come again later."""
        perhaps = refusals.is_perhaps_of_the_mailbox_for_now(reply)
        if perhaps:
            self._put_off.add(letter.reference)
        if refusals.is_of_the_mailbox_for_now(reply) or (perhaps and not self._put_off.are_too_many):
            raise PutOff(f"{self._account.host} answered RCPT with {reply.codes}", _PAUSE)

    def _expect(self, reply: Reply, stage: str, *codes: int) -> None:
        """A permanent no at this stage concerns us, whoever the patient is."""
        if reply.code in codes:
            return
        if reply.is_permanent:
            mend = refusals.mend(reply) or "look at the account's settings, or ask who runs it"
            self._stop(f"it refused {stage} with {reply.codes}: {mend}")
        raise NotTaken(f"{self._account.host} answered {stage} with {reply.codes}", _PAUSE)

    def _stop(self, reason: str) -> NoReturn:
        raise ProviderStopped(f"smtp server {self._account.host}: {reason}")

    # Connections -------------------------------------------------------------------------------------------------

    def _kept(self) -> Session | None:
        """A connection that was kept, and that the server hasn't ended since."""
        with suppress(IndexError):
            while True:
                session = self._idle.pop()
                with suppress(OSError):
                    if self._is_fresh(session) and not session.has_spoken():
                        return session
                session.close()
        return None

    def _is_fresh(self, session: Session) -> bool:
        return session.idle_since is not None and self._steady() - session.idle_since < _IDLE

    def _keep_or_close(self, session: Session, *, keep: bool) -> None:
        if keep and session.messages < _MOST_MESSAGES:
            session.idle_since = self._steady()
            self._idle.append(session)
        else:
            session.close()

    def _reset(self, session: Session) -> bool:
        """Ends a transaction that came to nothing; whether the connection can be kept. What is known stays known."""
        try:
            return session.ask("RSET").code == 250
        except OSError:
            return False

    def _connect(self, by: float) -> Session:
        session = Session(self._account.message_id_domain, self._steady)
        session.must_end(by)
        try:
            self._open(session)
        except ssl.SSLCertVerificationError as error:
            session.close()
            self._stop(f"{error.verify_message}: put its authority in smtp.ca_bundle, or mend smtp.host")
        except OSError as error:
            session.close()
            raise NotTaken(f"{self._account.host}, connecting: {_why(error)}", _PAUSE) from None
        except BaseException:
            session.close()
            raise
        return session

    def _open(self, session: Session) -> None:
        account = self._account
        session.open(account.host, account.port)
        if account.security == "tls":
            session.secure(self._context, account.host)
        self._expect(session.reply(), "the connection", 220)
        self._expect(session.say_hello(), "EHLO", 250)
        if account.security == "starttls":
            self._start_tls(session)
        if account.username is not None and account.password is not None:
            reply = session.authenticate(account.username, account.password)
            if reply is None:
                self._stop("it offers no AUTH that we know (PLAIN, LOGIN, CRAM-MD5): take smtp.username out, or ask")
            self._expect(reply, "AUTH", 235)

    def _start_tls(self, session: Session) -> None:
        if not session.has_extn("starttls"):
            self._stop("it doesn't offer STARTTLS: set smtp.security to tls, or mend smtp.port")
        self._expect(session.ask("STARTTLS"), "STARTTLS", 220)
        session.secure(self._context, self._account.host)
        self._expect(session.say_hello(), "EHLO", 250)

    # Writing -----------------------------------------------------------------------------------------------------

    def _letter(self, message: OutgoingMessage, now: datetime) -> _Letter:
        recipient = _recipient(message.address)
        token = self._tokens.token(message.reference)
        needs_utf8 = not recipient.isascii()
        content = self._content(message, recipient, token, now).as_bytes(policy=SMTPUTF8 if needs_utf8 else SMTP)
        dotted = re.sub(rb"(?m)^\.", b"..", content)
        return _Letter(message.reference, self._sender(token), recipient, dotted, needs_utf8)

    def _content(self, message: OutgoingMessage, recipient: str, token: str, now: datetime) -> EmailMessage:
        account = self._account
        email = EmailMessage(policy=SMTPUTF8)
        email["From"] = Address(_CONTROLS.sub(" ", account.from_name), addr_spec=account.from_address)
        email["To"] = _address(recipient)
        email["Subject"] = subject = _CONTROLS.sub(" ", message.subject or "").strip()
        email["Date"] = now.astimezone(UTC)
        email["Message-ID"] = f"<{token}@{account.message_id_domain}>"
        email["Auto-Submitted"] = "auto-generated"
        # Quoted-printable: lines that no server on the way has to break or recode.
        text = _BARE_CONTROLS.sub("", message.text)
        email.set_content(markdown.plain(text), charset="utf-8", cte="quoted-printable")
        page = markdown.page(text, subject)
        email.add_alternative(page, subtype="html", charset="utf-8", cte="quoted-printable")
        return email

    def _sender(self, token: str) -> str:
        local, _, domain = self._account.bounce_address.rpartition("@")
        tagged = f"{local}+{token}"
        fits = self._account.verp and len(tagged) <= _LONGEST_LOCAL_PART
        return f"{tagged}@{domain}" if fits else self._account.bounce_address


def _recipient(address: str) -> str:
    """The address as it goes to the server: nothing in it can be read as another command or header."""
    local, _, domain = address.rpartition("@")
    if not domain.isascii():
        try:
            domain = domain.encode("idna").decode()
        except UnicodeError:
            raise _Unsendable(ADDRESS_NOT_VALID) from None
    recipient = f"{local}@{domain}"
    if not _ADDRESS.fullmatch(recipient):
        raise _Unsendable(ADDRESS_NOT_VALID)
    return recipient


def _address(recipient: str) -> Address:
    local, _, domain = recipient.rpartition("@")
    return Address(username=local, domain=domain)


def _context(account: SmtpAccount) -> ssl.SSLContext:
    if account.security == "none":
        return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # trusts nobody, and isn't asked
    try:
        return ssl.create_default_context(cafile=account.ca_bundle)
    except (OSError, ssl.SSLError):
        raise Refused(
            f"smtp.ca_bundle: {account.ca_bundle} can't be read as certificates: give a file in PEM form"
        ) from None


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _why(error: OSError) -> str:
    """In words that quote nothing the server said."""
    if isinstance(error, Lost):
        return str(error)
    return "timed out" if isinstance(error, TimeoutError) else error.strerror or type(error).__name__
