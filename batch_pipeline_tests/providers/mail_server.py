"""A real mail server (aiosmtpd) on loopback, stricter than most, that does what a test says at any stage.

Stages, in their order: greeting, EHLO, STARTTLS, slipped in (said in the clear right before TLS), AUTH, MAIL, RCPT, DATA, content (after the "go ahead"), dot (all is
here and nothing is taken yet), taken (it stands in the journal). A *deed* is a reply in place of the true one, or
something to do first.
"""

import asyncio
import email
import ipaddress
import logging
import socket
import ssl
import threading
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.message import EmailMessage
from email.policy import default
from functools import partial
from pathlib import Path
from typing import Any, Self, cast

from aiosmtpd.smtp import SMTP, AuthResult, LoginPassword
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from typing_extensions import override

logging.getLogger("mail").setLevel(logging.CRITICAL)  # aiosmtpd tells of each lost connection

Deed = str | Callable[["Talk"], Awaitable[None]]
Fate = Callable[[str], Deed | None]
"""What happens at this stage, asked each time it is reached; None: what should."""

USERNAME, PASSWORD = "surgery", "a password for tests"
_LONG = 3_600
_ALLOWED = {"From", "To", "Subject", "Date", "Message-ID", "Auto-Submitted", "MIME-Version"}
_ALLOWED |= {"Content-Type", "Content-Transfer-Encoding"}


async def hang_up(talk: "Talk") -> None:
    talk.close()
    await asyncio.sleep(_LONG)


async def reset(talk: "Talk") -> None:
    talk.abort()
    await asyncio.sleep(_LONG)


async def say_nothing(_talk: "Talk") -> None:
    await asyncio.sleep(_LONG)


def wait(seconds: float) -> Deed:
    async def deed(_talk: "Talk") -> None:
        await asyncio.sleep(seconds)

    return deed


def dribble(text: str, every: float) -> Deed:
    """One character of the text at a time, again and again."""

    async def deed(talk: "Talk") -> None:
        while True:
            for character in text:
                talk.write(character.encode())
                await asyncio.sleep(every)

    return deed


@dataclass(frozen=True)
class Taken:
    """A message that the server took."""

    connection: int
    sender: str
    recipient: str
    content: bytes
    options: tuple[str, ...]

    @property
    def message(self) -> EmailMessage:
        return cast(EmailMessage, email.message_from_bytes(self.content, policy=default))


class Talk(SMTP):
    """One connection."""

    def __init__(self, server: "MailServer", number: int, **how: Any) -> None:
        super().__init__(self, hostname="mail.example.test", **how)
        self.mail_server = server
        self.number = number
        for command, method in list(self._smtp_methods.items()):
            self._smtp_methods[command] = partial(self._scripted, command, method)

    def write(self, data: bytes) -> None:
        self._writer.write(data)

    def close(self) -> None:
        if self.transport is not None:
            self.transport.close()

    def abort(self) -> None:
        if self.transport is not None:
            cast(asyncio.Transport, self.transport).abort()

    async def _deed(self, stage: str) -> str | None:
        """Does what is to be done first; gives the reply to send in place of the true one."""
        deed = self.mail_server.reached(stage, self.number)
        if deed is None or isinstance(deed, str):
            return deed
        await deed(self)
        return None

    async def _scripted(self, command: str, method: Callable[[Any], Awaitable[None]], argument: Any) -> None:
        reply = await self._deed(command)
        if reply is None and command == "RCPT":
            reply = next((reply for odd, reply in self.mail_server.odd.items() if f"<{odd}>" in argument), None)
        if reply is None:
            await method(argument)
            return
        await super().push(reply)
        if reply.startswith("421"):
            self.close()

    @override
    async def push(self, status: Any) -> None:
        if str(status).endswith("start TLS") and (slipped_in := await self._deed("slipped in")) is not None:
            status = f"{status}\r\n{slipped_in}"
        await super().push(status)
        if str(status).startswith("354") and (reply := await self._deed("content")) is not None:
            await super().push(reply)
            await hang_up(self)  # as real ones do that have had enough: what comes now isn't read

    @override
    async def _handle_client(self) -> None:
        if (reply := await self._deed("greeting")) is not None:
            await super().push(reply)
            self.close()
        else:
            await super()._handle_client()

    # aiosmtpd finds these by their names, with this object as the handler too.

    async def handle_DATA(self, _server: Any, _session: Any, envelope: Any) -> str:  # noqa: N802
        if (reply := await self._deed("dot")) is not None:
            return reply
        (recipient,) = envelope.rcpt_tos
        options = tuple(envelope.mail_options)
        taken = Taken(self.number, envelope.mail_from, recipient, envelope.content, options)
        extra = set(taken.message.keys()) - _ALLOWED
        assert not extra, f"headers that nobody asked for: {extra}"
        self.mail_server.journal.append(taken)
        return await self._deed("taken") or "250 2.0.0 taken"


@dataclass
class MailServer:
    """Use it as a context manager; the port is a free one."""

    fate: Fate = field(default=lambda _: None)
    tls: ssl.SSLContext | None = None
    """For TLS from the first byte; ``how(tls_context=…)`` for STARTTLS."""
    how: dict[str, Any] = field(default_factory=dict[str, Any])
    odd: dict[str, str] = field(default_factory=dict[str, str])
    """What RCPT of these addresses is answered with."""
    journal: list[Taken] = field(default_factory=list[Taken])
    stages: list[tuple[int, str]] = field(default_factory=list[tuple[int, str]])
    """Each stage that was reached, with the number of its connection."""
    connections: int = 0
    port: int = 0

    @property
    def dropped_after_the_dot(self) -> int:
        """Connections whose last stage was one of those in which nobody else can know."""
        last = dict(self.stages)
        return sum(stage in ("dot", "taken") for stage in last.values())

    def reached(self, stage: str, connection: int) -> Deed | None:
        self.stages.append((connection, stage))
        return self.fate(stage)

    def references(self) -> Counter[str]:
        """How often each Message-ID was taken."""
        return Counter(str(taken.message["Message-ID"]).strip() for taken in self.journal)

    def __enter__(self) -> Self:
        listening = socket.create_server(("127.0.0.1", 0))
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # or each EHLO takes 40 ms
        self.port = listening.getsockname()[1]
        self._loop = asyncio.new_event_loop()
        self._loop.set_exception_handler(lambda _loop, _context: None)  # lost connections are what is tested
        self._loop.run_until_complete(self._loop.create_server(self._talk, sock=listening, ssl=self.tls))
        self._listening = listening
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    def _talk(self) -> Talk:
        self.connections += 1
        return Talk(self, self.connections, loop=self._loop, **self.how)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()
        tasks = asyncio.all_tasks(self._loop)
        for task in tasks:
            task.cancel()
        self._loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        self._loop.close()
        self._listening.close()


def log_in(_server: Any, _session: Any, _envelope: Any, _mechanism: str, given: LoginPassword) -> AuthResult:
    """For ``how(authenticator=…)``."""
    return AuthResult(success=given == LoginPassword(USERNAME.encode(), PASSWORD.encode()), handled=False)


@dataclass(frozen=True)
class Certificate:
    """A certificate of our own for 127.0.0.1, which is its own authority."""

    path: Path
    context: ssl.SSLContext
    """The server's."""


def make_certificate(folder: Path, address: str = "127.0.0.1", *, days: int = 2) -> Certificate:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "a mail server for tests")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=3))
        .not_valid_after(now + timedelta(days=days))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(address))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    path, key_path = folder / "certificate.pem", folder / "key.pem"
    path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    key_path.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path, key_path)
    return Certificate(path, context)
