"""GOV.UK Notify on loopback, written from PROVIDERS.md 3 and stricter than it.

What a careful client would never send is refused and noted in ``violations``: a test ends by looking there. Its
journal shows every message that it took: two posts of one reference are two messages.
"""

import hashlib
import json
import random
import re
import socket
import ssl
import struct
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar, Literal
from urllib.parse import parse_qs, urlsplit

import jwt
from typing_extensions import override

SERVICE = "26785a09-ab16-4eb0-8407-a37497a57506"
SECRET = "3d844edf-8d35-48ac-975b-e847b4f122b0"
API_KEY = f"a_test_key-{SERVICE}-{SECRET}"
SMS_TEMPLATE = "f33517ff-2a88-4f6e-b855-c550268ce08a"
EMAIL_TEMPLATE = "3c9f0a3e-77b2-4d5f-9a1d-6f3b1c2e8a44"
SENDER = "8e222534-7f05-4972-86e3-17c5d9f894e2"

FATES = {
    "7700900001": "delivered",
    "7700900002": "permanent-failure",
    "7700900003": "temporary-failure",
}
"""Of the test recipients, without country code or leading zero; to all others it is delivered."""

Do = Literal["answer", "drop", "reset", "not json", "dribble", "other reference", "list", "redirect", "hang"]


@dataclass(frozen=True)
class Fault:
    """What goes wrong with one request."""

    do: Do = "answer"
    takes: bool = True
    """Whether the message is taken before it goes wrong."""
    status: int = 0
    error: str = ""
    message: str = "07700900123 is not a number"
    """Of the error."""
    body: bytes | None = None
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    delay: float = 0.0
    """Before the answer, in seconds."""


def denial(status: int, error: str, **more: Any) -> Fault:
    """An answer that says no, in GOV.UK Notify's own form, with a number in its message if it has no other."""
    return Fault(takes=False, status=status, error=error, **more)


@dataclass(frozen=True)
class Taken:
    """One message in the journal."""

    id: str
    reference: str
    channel: str
    recipient: str
    content: Mapping[str, str]
    at: datetime


@dataclass(frozen=True)
class Template:
    """A template of the service."""

    type: str
    body: str
    subject: str | None = None
    archived: bool = False

    @property
    def fields(self) -> list[str]:
        """As they are written in its texts; a conditional one is before its question marks."""
        texts = f"{self.subject or ''} {self.body}"
        return list(dict.fromkeys(re.findall(r"\(\(([^()?]+)(?:\?\?[^()]*)?\)\)", texts)))


class _BadRequestError(Exception):
    """What a careful client would never send."""

    def __init__(self, message: str, error: str = "ValidationError") -> None:
        super().__init__(message)
        self.error = error


class GovukNotifyDouble:
    """One service with two templates; ``templates`` holds what it has now.

    With ``guests`` the key is a team-only one, and nobody else is sent to. ``template_faults`` are the faults of the next
    look-ups of templates; ``post_faults`` and ``look_up_faults`` are the faults of each reference in turn; ``chance`` is asked when there is
    none: (reference, how often it was posted before) to a fault. ``clock`` gives the seconds since 1970 that it goes by.
    """

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.journal: list[Taken] = []
        self.violations: list[str] = []
        self.unauthorised = 0
        self.posts: Counter[str] = Counter()
        self.look_ups: Counter[str] = Counter()
        self.template_look_ups: Counter[str] = Counter()
        self.templates = {
            SMS_TEMPLATE: Template("sms", "((body))"),
            EMAIL_TEMPLATE: Template("email", "((body))", "((subject))"),
        }
        self.guests: set[str] | None = None
        self.connections = 0
        self.at_once = 0
        self.most_at_once = 0
        self.post_faults: dict[str, list[Fault]] = {}
        self.look_up_faults: dict[str, list[Fault]] = {}
        self.template_faults: list[Fault] = []
        self.chance: Callable[[str, int], Fault | None] = lambda _reference, _before: None
        self.clock = time.time
        self.released = threading.Event()
        self.daily_limit: int | None = None
        self.lock = threading.Lock()
        handler = type("Handler", (_Handler,), {"double": self})
        self._server = _Server(("127.0.0.1", 0), handler)
        self._scheme = "http"
        if tls is not None:
            self._scheme = "https"
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True, do_handshake_on_connect=False)

    @property
    def url(self) -> str:
        return f"{self._scheme}://127.0.0.1:{self._server.server_port}"

    def counts(self) -> Counter[str]:
        """How often each message was taken."""
        return Counter(taken.reference for taken in self.journal)

    @contextmanager
    def running(self) -> Iterator["GovukNotifyDouble"]:
        thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self.released.set()
            self._server.shutdown()
            self._server.server_close()
            thread.join()

    def pause_listening(self) -> None:
        """From now on nobody is there; ends every connection."""
        self._server.shutdown()
        self._server.server_close()

    # Callbacks

    def callbacks(self, seed: int = 0, *, repeated: float = 0.0, shuffled: bool = False) -> list[bytes]:
        """What it would post to us about every message: on its way, then its fate; some of it again."""
        drawn = random.Random(seed)
        bodies: list[bytes] = []
        for taken in self.journal:
            for status in ("sending", FATES.get(_bare_number(taken.recipient), "delivered")):
                bodies.extend([_callback(taken, status)] * (2 if drawn.random() < repeated else 1))
        if shuffled:
            drawn.shuffle(bodies)
        return bodies

    @staticmethod
    def push(url: str, token: str, bodies: Sequence[bytes]) -> list[int]:
        """Posts callbacks; gives the statuses they were answered with."""
        parts = urlsplit(url)
        connection = HTTPConnection(parts.hostname or "", parts.port, timeout=5)
        statuses: list[int] = []
        for body in bodies:
            headers = {"Content-Type": "application/json", "Authorization": f"Bearer {token}"}
            connection.request("POST", parts.path or "/", body, headers)
            answer = connection.getresponse()
            answer.read()
            statuses.append(answer.status)
        connection.close()
        return statuses

    # Requests

    def fault(self, faults: dict[str, list[Fault]], reference: str, before: int) -> Fault | None:
        """Of this request; to be called under the lock."""
        scripted = faults.get(reference) or faults.get("*")
        if scripted:
            return scripted.pop(0)
        return self.chance(reference, before) if faults is self.post_faults else None

    def refusal(self, channel: str, body: Mapping[str, Any]) -> Fault | None:
        """Of what a careful client may send, where the service isn't set up for it; in the API's own order."""
        for message in self._refusals(channel, body):
            return denial(400, "BadRequestError", message=message)
        return None

    def _refusals(self, channel: str, body: Mapping[str, Any]) -> Iterator[str]:
        template = self.templates.get(body["template_id"])
        if template is None:
            yield "Template not found"
            return
        if template.type != channel:
            yield f"{template.type} template is not suitable for {channel} notification"
        if template.archived:
            yield "Template has been deleted"
        given = {_key(field) for field in body["personalisation"]}
        if missing := [field for field in template.fields if _key(field) not in given]:
            yield f"Missing personalisation: {', '.join(missing)}"
        for key in _OPTIONAL & set(body):
            if body[key] != SENDER:
                yield f"{key} {body[key]} does not exist in database for service id {SERVICE}"
        recipient = body["phone_number" if channel == "sms" else "email_address"]
        if self.guests is not None and recipient not in self.guests:
            yield "Can’t send to this recipient using a team-only API key"

    def template(self, template_id: str) -> tuple[int, dict[str, Any]]:
        """The answer to who asks for a template: its status and body."""
        template = self.templates.get(template_id)
        if template is None:
            return 404, json.loads(_error(404, "NoResultFound", "No result found"))
        return 200, {
            "id": template_id,
            "type": template.type,
            "created_at": "2026-01-01T00:00:00.000000Z",
            "updated_at": None,
            "created_by": "somebody@example.test",
            "version": 1,
            "body": template.body,
            "subject": template.subject,
            "name": "A template",
            "personalisation": {field: {"required": True} for field in template.fields},
            "postage": None,
            "letter_contact_block": None,
        }

    def take(self, channel: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """Takes the message; gives the answer's body."""
        recipient = body["phone_number" if channel == "sms" else "email_address"]
        taken = Taken(str(uuid.uuid4()), body["reference"], channel, recipient, body["personalisation"], _now())
        self.journal.append(taken)
        return {
            "id": taken.id,
            "reference": taken.reference,
            "content": dict(taken.content) | ({"from_number": "RIVERSIDE"} if channel == "sms" else {}),
            "uri": f"{self.url}/v2/notifications/{taken.id}",
            "template": {"id": body["template_id"], "version": 1, "uri": f"{self.url}/v2/template/x"},
            "scheduled_for": None,
        }

    def found(self, reference: str) -> dict[str, Any]:
        """The body of an answer to a look-up, newest first."""
        found = [taken for taken in reversed(self.journal) if taken.reference == reference]
        return {
            "notifications": [
                {"id": taken.id, "reference": taken.reference, "type": taken.channel, "status": "sending"}
                for taken in found
            ],
            "links": {"current": f"{self.url}/v2/notifications?reference={reference}"},
        }


def lost_answers(seed: int, share: float) -> Callable[[str, int], Fault | None]:
    """Drops that share of all posts, half of them after the message was taken. The same seed, the same drops."""

    def drawn(reference: str, before: int) -> Fault | None:
        digest = hashlib.blake2b(f"{seed}/{reference}/{before}".encode(), digest_size=8).digest()
        drawn = int.from_bytes(digest) / 2**64
        return Fault("drop", takes=drawn < share / 2) if drawn < share else None

    return drawn


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 100

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._open: set[socket.socket] = set()

    @override
    def process_request(self, request: Any, client_address: Any) -> None:
        self._open.add(request)
        super().process_request(request, client_address)

    @override
    def shutdown_request(self, request: Any) -> None:
        self._open.discard(request)
        super().shutdown_request(request)

    @override
    def server_close(self) -> None:
        super().server_close()
        for request in list(self._open):
            with suppress(OSError):
                request.shutdown(socket.SHUT_RDWR)

    @override
    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ends of connections are what is tested."""


class _Handler(BaseHTTPRequestHandler):
    double: ClassVar[GovukNotifyDouble]
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    @override
    def setup(self) -> None:
        super().setup()
        with self.double.lock:
            self.double.connections += 1

    @override
    def log_message(self, format: str, *args: Any) -> None:
        """Says nothing."""

    def do_POST(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length)
        if len(body) < length:  # who sent it is gone
            self._end()
            return
        with self._counted():
            channel = self.path.removeprefix("/v2/notifications/")
            self._guarded(lambda: self._post(channel, _checked_body(channel, body, self.headers["Content-Type"])))

    def do_GET(self) -> None:
        with self._counted():
            if self.path.startswith(_TEMPLATE):
                self._guarded(lambda: self._give_template(self.path.removeprefix(_TEMPLATE)))
            else:
                self._guarded(lambda: self._look_up(_checked_query(self.path)))

    @contextmanager
    def _counted(self) -> Iterator[None]:
        double = self.double
        with double.lock:
            double.at_once += 1
            double.most_at_once = max(double.most_at_once, double.at_once)
        try:
            yield
        finally:
            with double.lock:
                double.at_once -= 1

    def _guarded(self, do: Callable[[], None]) -> None:
        if not _is_authorised(self.headers.get("Authorization"), self.double.clock()):
            self.double.unauthorised += 1
            self._say(403, _error(403, "AuthError", "Invalid token: signature, api token not found"))
            return
        try:
            do()
        except _BadRequestError as fault:
            self.double.violations.append(f"{self.command} {urlsplit(self.path).path}: {fault}")
            self._say(400, _error(400, fault.error, str(fault)))

    def _post(self, channel: str, body: Mapping[str, Any]) -> None:
        double, reference = self.double, body["reference"]
        with double.lock:
            fault = double.refusal(channel, body)
            fault = fault or double.fault(double.post_faults, reference, double.posts[reference]) or Fault()
            double.posts[reference] += 1
            if double.daily_limit is not None and len(double.journal) >= double.daily_limit:
                fault = denial(429, "TooManyRequestsError")
            told = double.take(channel, body) if fault.takes else {}
        self._answer(201, told, fault)

    def _give_template(self, template_id: str) -> None:
        double = self.double
        if not re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", template_id):
            raise _BadRequestError("id is not a valid UUID")
        with double.lock:
            double.template_look_ups[template_id] += 1
            fault = double.template_faults.pop(0) if double.template_faults else Fault()
            status, told = double.template(template_id)
        self._answer(status, told, fault)

    def _look_up(self, reference: str) -> None:
        double = self.double
        with double.lock:
            fault = double.fault(double.look_up_faults, reference, double.look_ups[reference]) or Fault()
            double.look_ups[reference] += 1
            told = double.found(reference)
        self._answer(200, told, fault)

    def _answer(self, status: int, told: Any, fault: Fault) -> None:
        if fault.delay:
            self.double.released.wait(fault.delay)
        if fault.error:
            body = _error(fault.status, fault.error, fault.message)
        else:
            body = json.dumps(told).encode() if fault.body is None else fault.body
        match fault.do:
            case "answer":
                self._say(fault.status or status, body, fault.headers)
            case "not json":
                self._say(status, b"<html>Created</html>", {"Content-Type": "text/html"})
            case "list":
                self._say(status, json.dumps([told]).encode())
            case "other reference":
                self._say(status, json.dumps(told | {"reference": "another"}).encode())
            case "redirect":
                self._say(fault.status, b"", {"Location": self.path})
            case _:
                self._break_off(fault.do, body)

    def _break_off(self, do: Do, body: bytes) -> None:
        match do:
            case "dribble":
                self._dribble(body)
            case "hang":
                self.double.released.wait(30)
            case "reset":
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                self.connection.close()
        self._end()

    def _end(self) -> None:
        self.close_connection = True
        with suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)

    def _dribble(self, body: bytes) -> None:
        """The whole right answer, a byte at a time."""
        head = f"HTTP/1.1 201 Created\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        with suppress(OSError):
            for byte in head.encode() + body:
                self.connection.sendall(bytes([byte]))
                if self.double.released.wait(0.05):
                    break

    def _say(self, status: int, body: bytes, headers: Mapping[str, str] | None = None) -> None:
        """One write: two would wait for each other's acknowledgement."""
        head = {"Content-Type": "application/json", "Content-Length": str(len(body))} | dict(headers or {})
        lines = "".join(f"{name}: {value}\r\n" for name, value in head.items())
        with suppress(OSError):
            self.connection.sendall(f"HTTP/1.1 {status} X\r\n{lines}\r\n".encode() + body)


# Checks --------------------------------------------------------------------------------------------------------------


def _is_authorised(header: str | None, now: float) -> bool:
    scheme, _, token = (header or "").partition(" ")
    try:
        claims = jwt.decode(token, SECRET, algorithms=["HS256"], options={"verify_iat": False})
        head = jwt.get_unverified_header(token)
    except jwt.InvalidTokenError:
        return False
    fresh = isinstance(claims.get("iat"), int) and abs(now - claims["iat"]) <= 30
    known = set(claims) == {"iss", "iat"} and claims["iss"] == SERVICE
    return scheme == "Bearer" and fresh and known and head == {"typ": "JWT", "alg": "HS256"}


_KEYS = {
    "sms": {"phone_number", "template_id", "personalisation", "reference", "sms_sender_id"},
    "email": {"email_address", "template_id", "personalisation", "reference", "email_reply_to_id"},
}
_OPTIONAL = {"sms_sender_id", "email_reply_to_id"}
_TEMPLATES = {"sms": SMS_TEMPLATE, "email": EMAIL_TEMPLATE}
_TEMPLATE = "/v2/template/"
_ADDRESSES = {"sms": r"(\+44|0)7\d{9}", "email": r"[^@\s]+@[^@\s]+\.[^@\s]+"}
_LONGEST = {"sms": 918, "email": 2_000_000}


def _checked_body(channel: str, body: bytes, media_type: str | None) -> dict[str, Any]:
    if channel not in _KEYS:
        raise _BadRequestError("no such address")
    if media_type != "application/json":
        raise _BadRequestError("not application/json")
    try:
        told: Any = json.loads(body)
    except ValueError:
        raise _BadRequestError("not JSON", "BadRequestError") from None
    if not isinstance(told, dict):
        raise _BadRequestError("not an object")
    if unknown := set(told) - _KEYS[channel]:
        raise _BadRequestError(f"unknown keys {sorted(unknown)}")
    if missing := _KEYS[channel] - _OPTIONAL - set(told):
        raise _BadRequestError(f"missing keys {sorted(missing)}")
    for key in set(told) - {"personalisation"}:
        if not isinstance(told[key], str) or not told[key]:
            raise _BadRequestError(f"{key} is not a text")
    _check_contents(channel, told)
    return told


def _check_contents(channel: str, told: Mapping[str, Any]) -> None:
    fields = told["personalisation"]
    if not isinstance(fields, dict) or not all(isinstance(text, str) for text in fields.values()):
        raise _BadRequestError("personalisation is not texts by their fields")
    if len(fields) != (1 if channel == "sms" else 2):
        raise _BadRequestError("personalisation has other fields than a text and a subject", "BadRequestError")
    if not re.fullmatch(_ADDRESSES[channel], told["phone_number" if channel == "sms" else "email_address"]):
        raise _BadRequestError("the address is not one")
    if any(len(text) > _LONGEST[channel] for text in fields.values()):
        raise _BadRequestError("the content is too long", "BadRequestError")


def _checked_query(path: str) -> str:
    parts = urlsplit(path)
    query = parse_qs(parts.query, strict_parsing=True) if parts.query else {}
    if parts.path != "/v2/notifications" or set(query) != {"reference"} or len(query["reference"]) != 1:
        raise _BadRequestError("not a look-up of one reference")
    return query["reference"][0]


def _error(status: int, error: str, message: str) -> bytes:
    return json.dumps({"status_code": status, "errors": [{"error": error, "message": message}]}).encode()


def _callback(taken: Taken, status: str) -> bytes:
    done = None if status == "sending" else _iso(taken.at + timedelta(seconds=5))
    told = {
        "id": taken.id,
        "reference": taken.reference,
        "to": taken.recipient,
        "status": status,
        "created_at": _iso(taken.at),
        "completed_at": done,
        "sent_at": _iso(taken.at + timedelta(seconds=1)),
        "notification_type": taken.channel,
        "template_id": _TEMPLATES[taken.channel],
        "template_version": 1,
    }
    return json.dumps(told).encode()


def _iso(at: datetime) -> str:
    return at.strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _now() -> datetime:
    return datetime.now(UTC)


def _key(field: str) -> str:
    """Fields are the same whatever their case, spaces, hyphens and underscores."""
    return field.lower().translate(dict.fromkeys(map(ord, " -_")))


def _bare_number(recipient: str) -> str:
    return recipient.removeprefix("+44").removeprefix("0")
