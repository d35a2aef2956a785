"""One SMTP connection whose every step ends by a deadline, and whose stages can be told apart.

``smtplib`` bounds each read of a socket, not the whole: a server that sends a byte a second holds it for ever. And its
``sendmail`` doesn't say at which step it failed, which is all that matters here.
"""

import re
import smtplib
import socket
import ssl
from collections.abc import Callable
from typing import NamedTuple

from typing_extensions import override

_PIECE = 16_384
"""Bytes sent under one reading of the clock: a TLS record."""
_LONGEST_LINE = 8_192
_MOST_LINES = 200
"""Of one reply. Real ones have a dozen."""
_MECHANISMS = ("PLAIN", "LOGIN", "CRAM-MD5")

_CODE = re.compile(rb"[2-5]\d\d")
_ENHANCED = re.compile(rb"[245]\.\d{1,3}\.\d{1,3}(?![\d.])")


class Lost(ConnectionError):
    """The connection is of no more use. The words are ours: never the server's, which may quote an address."""


class Reply(NamedTuple):
    """A server's reply without its text, which may quote an address."""

    code: int
    enhanced: str | None
    """As ``5.1.1`` (RFC 3463), where the server gives one."""

    @property
    def name(self) -> str:
        """The best code there is."""
        return self.enhanced or str(self.code)

    @property
    def codes(self) -> str:
        """All the codes there are, as ``554 5.7.1``."""
        return f"{self.code} {self.enhanced}" if self.enhanced else str(self.code)

    @property
    def is_positive(self) -> bool:
        """2xx."""
        return self.code // 100 == 2

    @property
    def is_permanent(self) -> bool:
        """5xx."""
        return self.code // 100 == 5


class Session(smtplib.SMTP):
    """A connection. Each method raises ``OSError`` when the connection is lost or the deadline is over."""

    def __init__(self, ehlo_name: str, steady: Callable[[], float]) -> None:
        super().__init__(local_hostname=ehlo_name)
        self.command_encoding = "utf-8"
        self.messages = 0
        """Handed over so far."""
        self.idle_since: float | None = None
        """By the steady clock; none: it is new."""
        self._steady = steady
        self._ends = 0.0
        self._heard = bytearray()

    def must_end(self, at: float) -> None:
        """Sets the deadline of all that follows, by the steady clock."""
        self._ends = at

    # Opening -----------------------------------------------------------------------------------------------------

    def open(self, host: str, port: int) -> None:
        """Connects to the first of the host's addresses that answers; each gets its share of the time."""
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        for left, (family, kind, protocol, _, address) in zip(range(len(found), 0, -1), found, strict=True):
            self.sock = socket.socket(family, kind, protocol)
            self.sock.settimeout(self._rest() / left)
            try:
                self.sock.connect(address)
            except OSError:
                self.close()
                if left == 1:
                    raise
            else:
                # The final dot goes in a packet of its own: not to wait for the answer to the one before.
                self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                return

    def secure(self, context: ssl.SSLContext, host: str) -> None:
        """Puts TLS on the connection. What was said in the clear counts for nothing after that (RFC 3207, 4.2)."""
        if self._heard:
            raise Lost("the server spoke on before TLS began")
        self.sock = context.wrap_socket(self._socket(), server_hostname=host)
        self.esmtp_features: dict[str, str] = {}

    def say_hello(self) -> Reply:
        """EHLO; after it ``has_extn`` tells what is offered."""
        return _reply(*self.ehlo())

    def authenticate(self, username: str, password: str) -> Reply | None:
        """The reply to AUTH, by one mechanism only: many servers hang up after a refusal. None: no mechanism is common."""
        offered = self.esmtp_features.get("auth", "").upper().split()
        mechanism = next((mechanism for mechanism in _MECHANISMS if mechanism in offered), None)
        if mechanism is None:
            return None
        self.user, self.password = username, password
        ways = {"PLAIN": self.auth_plain, "LOGIN": self.auth_login, "CRAM-MD5": self.auth_cram_md5}
        try:
            code, text = self.auth(mechanism, ways[mechanism])
        except smtplib.SMTPAuthenticationError as refused:
            error = refused.smtp_error
            return _reply(refused.smtp_code, error.encode() if isinstance(error, str) else error)
        except ValueError:
            raise Lost("the server's challenge to AUTH isn't base64") from None
        return _reply(code, text)

    # Talking -----------------------------------------------------------------------------------------------------

    def ask(self, command: str, arguments: str = "") -> Reply:
        """Sends a command, and gives the reply."""
        return _reply(*self.docmd(command, arguments))

    def reply(self) -> Reply:
        """The next reply."""
        return _reply(*self.getreply())

    def has_spoken(self) -> bool:
        """Whether the server has said something unasked; ``Lost`` where it has hung up. Doesn't wait."""
        connected = self._socket()
        connected.settimeout(0)
        try:
            heard = connected.recv(_LONGEST_LINE)
        except (BlockingIOError, ssl.SSLWantReadError):
            return bool(self._heard)
        self._hear(heard)
        return True

    @override
    def send(self, s: object) -> None:
        if self._heard:
            # Whatever it answers to, it isn't to what we say next.
            raise Lost("the server spoke out of turn")
        data = memoryview(s.encode(self.command_encoding) if isinstance(s, str) else bytes(s))  # pyright: ignore[reportArgumentType] - str or bytes
        for start in range(0, len(data), _PIECE):
            connected = self._socket()
            connected.settimeout(self._rest())
            connected.sendall(data[start : start + _PIECE])

    @override
    def getreply(self) -> tuple[int, bytes]:
        texts: list[bytes] = []
        for _ in range(_MOST_LINES):
            line = self._line()
            if not _CODE.match(line):
                raise Lost("the server doesn't answer as an SMTP server does")
            texts.append(line[4:].strip())
            if line[3:4] != b"-":
                return int(line[:3]), b"\n".join(texts)
        raise Lost("the server's reply doesn't end")

    def _line(self) -> bytes:
        while (end := self._heard.find(b"\n")) < 0:
            if len(self._heard) > _LONGEST_LINE:
                raise Lost("the server's line doesn't end")
            connected = self._socket()
            connected.settimeout(self._rest())
            self._hear(connected.recv(4_096))
        line = bytes(self._heard[: end + 1])
        del self._heard[: end + 1]
        return line

    def _hear(self, heard: bytes) -> None:
        if not heard:
            raise Lost("the server hung up")
        self._heard += heard

    def _rest(self) -> float:
        rest = self._ends - self._steady()
        if rest <= 0:
            raise TimeoutError("timed out")
        return rest

    def _socket(self) -> socket.socket:
        if self.sock is None:
            raise Lost("not connected")
        return self.sock


def _reply(code: int, text: bytes) -> Reply:
    enhanced = _ENHANCED.match(text)
    return Reply(code, enhanced[0].decode() if enhanced else None)
