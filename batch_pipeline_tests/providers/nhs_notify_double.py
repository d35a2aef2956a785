"""NHS Notify as PROVIDERS.md 1 describes it, on loopback, and stricter: what no client may do is a test's failure.

It takes batches, forgets answers, answers badly or slowly by a plan, and keeps a journal of every message that it
took, to which it only adds: a message sent twice stands there twice.
"""

import hashlib
import hmac
import itertools
import json
import random
import re
import secrets
import socket
import struct
import threading
import time
import urllib.error
import urllib.request
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from email.message import Message
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal, Self
from urllib.parse import parse_qs, urlsplit

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from typing_extensions import override

from batch_pipeline.providers.nhs_notify_account import NhsNotifyAccount
from batch_pipeline.rules import nhs_number

API_KEY = "an-api-key-of-nobody"
KEY_ID = "test-1"
MEDIA_TYPE = "application/vnd.api+json"
MOST_MESSAGES = 45_000
MOST_BYTES = 5_200_000

Endpoint = Literal["token", "batches", "accounts"]

_PLANS = {
    "00000000-0000-0000-0000-000000000001": ("nhs_app", {"body"}),
    "00000000-0000-0000-0000-000000000002": ("email", {"email_subject", "email_body"}),
    "00000000-0000-0000-0000-000000000003": ("sms", {"sms_body"}),
}
_MESSAGES = "/data/attributes/messages"
_FORM = {"grant_type", "client_assertion_type", "client_assertion"}
_CLAIMS = {"iss", "sub", "aud", "jti", "exp"}


@cache
def private_key() -> str:
    """One for all tests: they take long to make."""
    return _pem(rsa.generate_private_key(public_exponent=65537, key_size=2048))


@cache
def _public_key() -> rsa.RSAPublicKey:
    key = serialization.load_pem_private_key(private_key().encode(), None)
    assert isinstance(key, rsa.RSAPrivateKey)
    return key.public_key()


@cache
def another_private_key() -> str:
    return _pem(rsa.generate_private_key(public_exponent=65537, key_size=2048))


def _pem(key: rsa.RSAPrivateKey) -> str:
    form, plain = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    return key.private_bytes(serialization.Encoding.PEM, form, plain).decode()


@dataclass(frozen=True)
class Reply:
    status: int
    body: Any = None
    """JSON, or bytes as they are."""
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Fault:
    """What goes wrong with one request, in this order."""

    deaf: bool = False
    """The body isn't read, and nothing is answered."""
    delay: float = 0
    """Seconds, before anything is taken."""
    drop: Literal["before", "after"] | None = None
    """The connection is gone, before or after the request was carried out."""
    answer: Reply | None = None
    """Instead of carrying it out."""
    alter: Callable[[Any], Any] | None = None
    """Of the answer's JSON, after carrying it out."""
    repeat: bool = False
    """A gateway on the way delivers the request twice, and passes the second answer on."""
    dribble: Literal["headers", "body"] | None = None
    """The answer comes a byte at a time, and never whole."""


NO_FAULT = Fault()


def lossy(seed: int, before: float = 0.1, after: float = 0.1, other: float = 0.05) -> Callable[[], Fault]:
    """Shares of requests that are dropped before or after they were taken; and of each other thing that may happen."""
    chance, lock = random.Random(seed), threading.Lock()
    quota, too_early = errors(429, "CM_QUOTA", Retry_After="1"), errors(425, "CM_RETRY_TOO_EARLY", Retry_After="300")
    others = [Fault(repeat=True), *(Fault(answer=reply) for reply in (quota, too_early, Reply(503, b"")))]
    faults = [Fault(drop="before"), Fault(drop="after"), *others, NO_FAULT]
    shares = [before, after, *[other] * len(others)]

    def draw() -> Fault:
        with lock:
            return chance.choices(faults, [*shares, 1 - sum(shares)])[0]

    return draw


def error(status: int, code: str, pointer: str | None = None) -> dict[str, Any]:
    source = {"header": "Authorization"} if pointer is None else {"pointer": pointer}
    return {
        "id": "rrt-1",
        "code": code,
        "status": str(status),
        "title": "A title",
        "detail": "words that may quote 9990000018",
        "source": source,
        "links": {"about": "https://example.test"},
    }


def errors(status: int, *errors_of: tuple[str, str] | str, **headers: str) -> Reply:
    """An answer with these errors: a code, or a code and a pointer."""
    body = [error(status, each) if isinstance(each, str) else error(status, *each) for each in errors_of]
    return Reply(status, {"errors": body}, {name.replace("_", "-"): value for name, value in headers.items()})


@dataclass(frozen=True)
class Taken:
    """One acceptance of one message."""

    reference: str
    batch: str
    channel: str
    nhs_number: str
    at: float


class NhsNotifyDouble:
    """A server on a port of its own, from ``with`` on.

    Args:
        contact_details, originator: what was agreed with this account.
        chance: asked for a fault of each posted batch for which ``faults`` holds none.
        token_seconds: how long a token is good.
        page_size: accounts a page holds.
    """

    def __init__(
        self,
        *,
        contact_details: bool = True,
        originator: bool = True,
        chance: Callable[[], Fault] = lambda: NO_FAULT,
        token_seconds: int = 599,
        page_size: int = 2,
    ) -> None:
        self.contact_details = contact_details
        self.originator = originator
        self.chance = chance
        self.token_seconds = token_seconds
        self.page_size = page_size
        self.faults: dict[Endpoint, deque[Fault]] = defaultdict(deque)
        self.app_accounts: dict[str, list[tuple[str, bool]]] = {}
        self.journal: list[Taken] = []
        self.bodies: list[bytes] = []
        self.asked: Counter[Endpoint] = Counter()
        self.failures: list[str] = []
        """What no client may ever do."""
        self.stopping = threading.Event()
        self._lock = threading.Lock()
        self._held: dict[str, str] = {}
        self._tokens: dict[str, float] = {}
        self._assertions: set[str] = set()
        self._ids = itertools.count(1)

    def __enter__(self) -> Self:
        double = self

        class Handler(_Handler):
            notify = double

        self._server = _Server(("127.0.0.1", 0), Handler)
        self.host = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, args=[0.01], daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stopping.set()
        self._server.shutdown()
        self._server.server_close()

    def account(self, **changes: Any) -> NhsNotifyAccount:
        standard = {
            "base_url": f"{self.host}/comms",
            "api_key": API_KEY,
            "key_id": KEY_ID,
            "private_key": private_key(),
            "ods_code": "A28095" if self.originator else None,
            "contact_details": self.contact_details,
        }
        return NhsNotifyAccount(**(standard | changes))

    def plan(self, endpoint: Endpoint, *faults: Fault) -> None:
        """What goes wrong with the next requests."""
        self.faults[endpoint].extend(faults)

    def times(self) -> Counter[str]:
        """How often each message was taken."""
        return Counter(taken.reference for taken in self.journal)

    def revoke_tokens(self) -> None:
        with self._lock:
            self._tokens.clear()

    def fault(self, endpoint: Endpoint) -> Fault:
        with self._lock:
            self.asked[endpoint] += 1
            if self.faults[endpoint]:
                return self.faults[endpoint].popleft()
        return self.chance() if endpoint == "batches" else NO_FAULT

    # Tokens ------------------------------------------------------------------------------------------------------

    def give_token(self, headers: Message, body: bytes) -> Reply:
        if headers.get("Content-Type") != "application/x-www-form-urlencoded":
            return Reply(415, {"error": "invalid_request"})
        form = parse_qs(body.decode(), strict_parsing=True)
        if set(form) != _FORM or any(len(values) != 1 for values in form.values()):
            return Reply(400, {"error": "invalid_request"})
        if form["grant_type"] != ["client_credentials"]:
            return Reply(400, {"error": "unsupported_grant_type"})
        if form["client_assertion_type"] != ["urn:ietf:params:oauth:client-assertion-type:jwt-bearer"]:
            return Reply(400, {"error": "invalid_request"})
        if not self._is_ours(form["client_assertion"][0]):
            return Reply(401, {"error": "invalid_client", "error_description": "words"})
        token = secrets.token_hex(16)
        with self._lock:
            self._tokens[token] = time.monotonic() + self.token_seconds
        answer = {"access_token": token, "expires_in": str(self.token_seconds), "token_type": "Bearer"}
        return Reply(200, answer)

    def _is_ours(self, assertion: str) -> bool:
        try:
            header = jwt.get_unverified_header(assertion)
            claims = jwt.decode(
                assertion,
                _public_key(),
                algorithms=["RS512"],
                audience=f"{self.host}/oauth2/token",
                options={"require": sorted(_CLAIMS)},
            )
        except jwt.PyJWTError:
            return False
        if set(claims) != _CLAIMS or not isinstance(claims["aud"], str) or not isinstance(claims["exp"], int):
            self.failures.append("an assertion has other claims than it may")
        with self._lock:
            if claims["jti"] in self._assertions:
                self.failures.append("an assertion was used twice")
            self._assertions.add(claims["jti"])
        known = claims["iss"] == claims["sub"] == API_KEY and header.get("kid") == KEY_ID
        return known and claims["exp"] - time.time() <= 300

    def _is_known(self, headers: Message) -> bool:
        scheme, _, token = headers.get("Authorization", "").partition(" ")
        with self._lock:
            return scheme == "Bearer" and self._tokens.get(token, 0) > time.monotonic()

    # Batches -----------------------------------------------------------------------------------------------------

    def take_batch(self, headers: Message, body: bytes) -> Reply:
        refusal = self._refusal(headers, body)
        if refusal is not None:
            return refusal
        batch = json.loads(body, object_pairs_hook=self._without_repeats)
        attributes = self._opened(batch)
        if attributes is None:
            return errors(400, ("CM_INVALID_VALUE", "/data"))
        plan, messages = attributes["routingPlanId"], attributes["messages"]
        if plan not in _PLANS:
            return errors(404, ("CM_NO_SUCH_ROUTING_PLAN", "/data/attributes/routingPlanId"))
        if len(messages) > MOST_MESSAGES:
            return errors(413, ("CM_TOO_MANY_ITEMS", _MESSAGES))
        channel, fields = _PLANS[plan]
        faults = list(itertools.islice(self._faults_of(messages, channel, fields), 100))
        if faults:
            return errors(400, *faults)
        return self._accept(attributes["messageBatchReference"], channel, messages, body)

    def _refusal(self, headers: Message, body: bytes) -> Reply | None:
        """Before a batch is read."""
        if not self._is_known(headers):
            return errors(401, "CM_DENIED")
        if headers.get("Content-Type") != MEDIA_TYPE:
            return errors(415, "CM_UNSUPPORTED_MEDIA")
        if headers.get("Accept") != MEDIA_TYPE:
            return errors(406, "CM_NOT_ACCEPTABLE")
        return errors(413, "CM_TOO_LARGE") if len(body) > MOST_BYTES else None

    def _without_repeats(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len({name for name, _ in pairs}) != len(pairs):
            self.failures.append("a key stands twice")
        return dict(pairs)

    def _opened(self, batch: Any) -> dict[str, Any] | None:
        """The attributes, if the frame is as it must be."""
        with suppress(KeyError, TypeError, AttributeError):
            attributes = batch["data"]["attributes"]
            reference, messages = attributes["messageBatchReference"], attributes["messages"]
            if (
                set(batch) == {"data"}
                and set(batch["data"]) == {"type", "attributes"}
                and batch["data"]["type"] == "MessageBatch"
                and set(attributes) == {"routingPlanId", "messageBatchReference", "messages"}
                and isinstance(reference, str)
                and reference.strip()
                and isinstance(messages, list)
                and messages
            ):
                return attributes
        self.failures.append("a batch isn't in its frame")
        return None

    def _faults_of(self, messages: Sequence[Any], channel: str, fields: set[str]) -> Iterator[tuple[str, str]]:
        """Code and pointer of each."""
        seen: set[str] = set()
        for row, message in enumerate(messages):
            at = f"{_MESSAGES}/{row}"
            if unknown := set(message) - {
                "messageReference",
                "billingReference",
                "recipient",
                "originator",
                "personalisation",
            }:
                self.failures.append(f"a message has {unknown}")
            reference = message.get("messageReference")
            if not isinstance(reference, str) or not reference.strip():
                yield "CM_MISSING_VALUE", f"{at}/messageReference"
            elif reference in seen:
                yield "CM_DUPLICATE_VALUE", f"{at}/messageReference"
            seen.add(str(reference))
            if "billingReference" in message and not isinstance(message["billingReference"], str):
                yield "CM_INVALID_VALUE", f"{at}/billingReference"
            yield from self._faults_of_originator(message, at)
            yield from self._faults_of_recipient(message.get("recipient"), channel, f"{at}/recipient")
            yield from self._faults_of_personalisation(message.get("personalisation"), fields, at)

    def _faults_of_originator(self, message: Any, at: str) -> Iterator[tuple[str, str]]:
        if "originator" not in message:
            return
        if not self.originator:
            yield "CM_CANNOT_SET_ORIGINATOR", f"{at}/originator"
        if set(message["originator"]) != {"odsCode"}:
            self.failures.append("an originator isn't an ODS code alone")

    def _faults_of_recipient(self, recipient: Any, channel: str, at: str) -> Iterator[tuple[str, str]]:
        if not isinstance(recipient, dict):
            yield "CM_MISSING_VALUE", at
            return
        if set(recipient) - {"nhsNumber", "contactDetails"}:
            self.failures.append("a recipient has other keys than it may")
        number = recipient.get("nhsNumber")
        if not isinstance(number, str) or nhs_number.problem(number):
            yield "CM_INVALID_NHS_NUMBER", f"{at}/nhsNumber"
        if "contactDetails" not in recipient:
            return
        details = recipient["contactDetails"]
        if not self.contact_details:
            yield "CM_CANNOT_SET_CONTACT_DETAILS", f"{at}/contactDetails"
        if set(details) != {channel} or channel == "nhs_app":
            self.failures.append("contact details aren't the channel's own")
        if "sms" in details and not re.fullmatch(r"\+447[0-9]{9}", details["sms"]):
            yield "CM_INVALID_VALUE", f"{at}/contactDetails/sms"
        if "email" in details and not (len(details["email"]) <= 90 and "@" in details["email"]):
            yield "CM_INVALID_VALUE", f"{at}/contactDetails/email"

    def _faults_of_personalisation(self, given: Any, fields: set[str], at: str) -> Iterator[tuple[str, str]]:
        if not isinstance(given, dict) or set(given) != fields:  # the service itself would find out later
            self.failures.append("the personalisation isn't the plan's")
        elif not all(isinstance(text, str) and text for text in given.values()):
            yield "CM_INVALID_VALUE", f"{at}/personalisation"

    def _accept(self, reference: str, channel: str, messages: Sequence[Any], body: bytes) -> Reply:
        contents = hashlib.sha256(body).hexdigest()
        with self._lock:
            self.bodies.append(body)
            held = self._held.setdefault(reference, "")
            if held:
                if held != contents:
                    self.failures.append(f"batch {reference} came again with other contents")
                return errors(422, ("CM_DUPLICATE_REQUEST", "/data/attributes/messageBatchReference"))
            self._held[reference] = contents
            for message in messages:
                self.journal.append(
                    Taken(
                        message["messageReference"],
                        reference,
                        channel,
                        message["recipient"]["nhsNumber"],
                        time.monotonic(),
                    )
                )
        attributes = {
            "messageBatchReference": reference,
            "routingPlan": {
                "id": "a plan",
                "version": "1",
                "name": "A plan",
                "createdDate": "2022-01-01T00:00:00.000Z",
            },
            "messages": [{"messageReference": each["messageReference"], "id": self._id()} for each in messages],
        }
        return Reply(201, {"data": {"type": "MessageBatch", "id": self._id(), "attributes": attributes}})

    def _id(self) -> str:
        return f"3MSO{next(self._ids):023d}"

    # App accounts ------------------------------------------------------------------------------------------------

    def give_accounts(self, headers: Message, query: Mapping[str, list[str]]) -> Reply:
        if not self._is_known(headers):
            return errors(401, "CM_DENIED")
        if set(query) - {"page"} != {"ods-organisation-code"}:
            return errors(400, "CM_MISSING_VALUE")
        ods_code, page = query["ods-organisation-code"][0], int(query.get("page", ["1"])[0])
        accounts = self.app_accounts.get(ods_code)
        last = -(-len(accounts or ()) // self.page_size)
        if accounts is None or not 1 <= page <= last:
            return errors(404, "CM_NOT_FOUND")
        these = accounts[(page - 1) * self.page_size : page * self.page_size]
        rows = [{"nhsNumber": number, "notificationsEnabled": enabled} for number, enabled in these]
        link = f"{self.host}/comms/channels/nhsapp/accounts?ods-organisation-code={ods_code}&page="
        links = {"self": f"{link}{page}", "last": f"{link}{last}", "next": f"{link}{page + 1}" if page < last else None}
        return Reply(
            200, {"data": {"id": ods_code, "type": "NhsAppAccounts", "attributes": {"accounts": rows}}, "links": links}
        )


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    @override
    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that is gone is none."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    notify: NhsNotifyDouble

    def do_POST(self) -> None:
        if self.path == "/oauth2/token":
            self._carry_out("token", lambda body: self.notify.give_token(self.headers, body))
        elif self.path == "/comms/v1/message-batches":
            self._carry_out("batches", lambda body: self.notify.take_batch(self.headers, body))
        else:
            self._send(errors(404, "CM_NOT_FOUND"))

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        if parts.path == "/comms/channels/nhsapp/accounts":
            query = parse_qs(parts.query)
            self._carry_out("accounts", lambda _: self.notify.give_accounts(self.headers, query))
        else:
            self._send(errors(404, "CM_NOT_FOUND"))

    def _carry_out(self, endpoint: Endpoint, work: Callable[[bytes], Reply]) -> None:
        fault = self.notify.fault(endpoint)
        if fault.deaf:
            self.notify.stopping.wait(30)
            return self._drop()
        length = int(self.headers.get("Content-Length", 0))
        body = self.rfile.read(length)
        if len(body) < length:  # who sent it is gone
            return self._drop()
        self.notify.stopping.wait(fault.delay)
        if fault.drop == "before":
            return self._drop()
        if fault.answer is not None:
            return self._send(fault.answer, fault.dribble)
        reply = work(body)
        if fault.repeat:
            reply = work(body)
        if fault.drop == "after":
            return self._drop()
        if fault.alter is not None:
            reply = Reply(reply.status, fault.alter(reply.body), reply.headers)
        return self._send(reply, fault.dribble)

    def _drop(self) -> None:
        """Gone without a farewell: the other side sees a reset."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True

    def _send(self, reply: Reply, dribble: str | None = None) -> None:
        body = reply.body if isinstance(reply.body, bytes) else json.dumps(reply.body).encode()
        head = [f"HTTP/1.1 {reply.status} A reason"]
        head += [f"{name}: {value}" for name, value in {"Content-Type": MEDIA_TYPE, **reply.headers}.items()]
        head.append(f"Content-Length: {len(body)}")
        if dribble == "headers":
            return self._dribble(f"{head[0]}\r\nX-Long: ".encode())
        if dribble == "body":
            head[-1] = "Content-Length: 100000"
            return self._dribble("\r\n".join([*head, "", ""]).encode())
        self.wfile.write("\r\n".join([*head, "", ""]).encode() + body)
        return None

    def _dribble(self, beginning: bytes) -> None:
        self.wfile.write(beginning)
        while not self.notify.stopping.wait(0.02):
            self.wfile.write(b"a")
        self.close_connection = True

    @override
    def log_message(self, format: str, *args: Any) -> None:
        """Tests are quiet."""


# Callbacks -----------------------------------------------------------------------------------------------------------


def message_status(reference: str, status: str, *, key: str = "key-1", **more: Any) -> dict[str, Any]:
    attributes = {
        "messageId": "2WL3qFTEFM0qMY8xjRbt1LIKCzM",
        "messageReference": reference,
        "messageStatus": status,
        "channels": [{"type": "sms", "channelStatus": status}],
        "timestamp": "2026-11-22T14:27:51.413Z",
        "routingPlan": {"id": "00000000-0000-0000-0000-000000000003"},
    }
    return _news("MessageStatus", attributes | more, key)


def channel_status(
    reference: str, channel: str, status: str, supplier: str, *, key: str = "key-1", **more: Any
) -> dict[str, Any]:
    attributes = {
        "messageId": "2WL3qFTEFM0qMY8xjRbt1LIKCzM",
        "messageReference": reference,
        "cascadeType": "primary",
        "cascadeOrder": 1,
        "channel": channel,
        "channelStatus": status,
        "supplierStatus": supplier,
        "timestamp": "2026-11-22T14:27:51.413Z",
        "retryCount": 0,
    }
    return _news("ChannelStatus", attributes | more, key)


def _news(kind: str, attributes: dict[str, Any], key: str) -> dict[str, Any]:
    links = {"message": "https://example.test/comms/v1/messages/2WL3"}
    return {"type": kind, "attributes": attributes, "links": links, "meta": {"idempotencyKey": key}}


def signed(body: bytes, application_id: str, api_key: str) -> dict[str, str]:
    """The headers of a genuine callback."""
    signature = hmac.new(f"{application_id}.{api_key}".encode(), body, hashlib.sha256).hexdigest()
    return {"x-api-key": api_key, "x-hmac-sha256-signature": signature, "Content-Type": MEDIA_TYPE}


def push(
    url: str,
    news: Sequence[dict[str, Any]],
    *,
    application_id: str,
    api_key: str,
    seed: int = 0,
    repeated: float = 0.3,
    at_once: int = 3,
) -> list[int]:
    """Posts callbacks of up to ``at_once`` items, some twice and in an order of the seed's; the statuses answered."""
    chance = random.Random(seed)
    shuffled = chance.sample(news, len(news))
    bodies = [
        json.dumps({"data": shuffled[start : start + at_once]}).encode() for start in range(0, len(news), at_once)
    ]
    bodies += [body for body in bodies if chance.random() < repeated]
    chance.shuffle(bodies)
    return [_post(url, body, signed(body, application_id, api_key)) for body in bodies]


def _post(url: str, body: bytes, headers: Mapping[str, str]) -> int:
    request = urllib.request.Request(url, body, dict(headers), method="POST")
    try:
        with urllib.request.urlopen(request, timeout=10) as response:
            return response.status
    except urllib.error.HTTPError as refusal:
        return refusal.code
