"""A FHIR server on loopback, stricter than PROVIDERS.md 5: what no client may do is a test's failure.

It keeps what it creates, and answers a conditional create as FHIR says. Its tokens are those of the NHS Notify double.
"""

import json
import threading
import uuid
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from email.message import Message
from typing import Any, Self
from urllib.parse import parse_qs

from typing_extensions import override

from batch_pipeline.records.fhir_server import FhirAccount
from batch_pipeline.records.validity import NotValid, check
from batch_pipeline.records.writer import IDENTIFIERS, our_identifiers
from batch_pipeline_tests.providers.nhs_notify_double import (
    API_KEY,
    KEY_ID,
    NhsNotifyDouble,
    Reply,
    _Handler,
    _Server,
    private_key,
)

TOKEN = "a-bearer-token-of-nobody"
TYPES = ("Communication", "QuestionnaireResponse", "Observation", "Appointment")
CAPABILITIES = {
    "resourceType": "CapabilityStatement",
    "rest": [{"mode": "server", "resource": [{"type": kind, "conditionalCreate": True} for kind in TYPES]}],
}


def outcome(status: int, code: str, **headers: str) -> Reply:
    """An OperationOutcome whose words quote a patient, as servers do."""
    issue = {"severity": "error", "code": code, "diagnostics": "Patient 9990000018 isn't registered here"}
    said = {name.replace("_", "-"): value for name, value in headers.items()}
    return Reply(status, {"resourceType": "OperationOutcome", "issue": [issue]}, said)


class FhirDouble(NhsNotifyDouble):
    """A server on a port of its own, from ``with`` on; a fault of ``batches`` is one of a create, ``accounts`` of a look."""

    def __init__(self, **more: Any) -> None:
        super().__init__(**more)
        self.created: list[dict[str, Any]] = []
        """In the order of their creation: what was created twice stands there twice."""
        self.refuses: dict[str, Reply] = {}
        """By identifier."""
        self.capabilities: Reply = Reply(200, CAPABILITIES)
        self._at_work: set[str] = set()

    @override
    def __enter__(self) -> Self:
        double = self

        class Handler(_FhirHandler):
            notify = double

        self._server = _Server(("127.0.0.1", 0), Handler)
        self.host = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, args=[0.01], daemon=True).start()
        return self

    @property
    def base_url(self) -> str:
        return f"{self.host}/fhir/R4"

    def by_token(self) -> FhirAccount:
        return FhirAccount(self.base_url, token=TOKEN)

    def by_keys(self) -> FhirAccount:
        return FhirAccount(self.base_url, api_key=API_KEY, key_id=KEY_ID, private_key=private_key())

    def times_created(self) -> Counter[str]:
        return Counter(our_identifiers(each)[0] for each in self.created)

    def give_capabilities(self, headers: Message) -> Reply:
        return self.capabilities if self._knows(headers) else outcome(401, "login")

    def create(self, headers: Message, body: bytes, kind: str) -> Reply:
        if not self._knows(headers):
            return outcome(401, "login")
        resource = json.loads(body, object_pairs_hook=self._without_repeats)
        (identifier,) = our_identifiers(resource)
        if resource["resourceType"] != kind:
            self.failures.append("an entry is created where another type's are")
        self._look_at(headers, resource, identifier)
        if (refusal := self.refuses.get(identifier)) is not None:
            return refusal
        with self._alone(identifier):
            if self.times_created()[identifier]:
                return Reply(200, b"")
            self.created.append(resource)
            return Reply(201, b"", {"Location": f"{self.base_url}/{kind}/{len(self.created)}/_history/1"})

    @contextmanager
    def _alone(self, identifier: str) -> Iterator[None]:
        with self._lock:
            if identifier in self._at_work:
                self.failures.append("the same entry is created by two at the same time")
            self._at_work.add(identifier)
        yield
        with self._lock:
            self._at_work.remove(identifier)

    def _knows(self, headers: Message) -> bool:
        return headers.get("Authorization") == f"Bearer {TOKEN}" or self._is_known(headers)

    def _look_at(self, headers: Message, resource: dict[str, Any], identifier: str) -> None:
        try:
            check(resource)
        except NotValid as invalid:
            self.failures.append(f"an entry isn't valid: {invalid}")
        if "id" in resource or "meta" in resource:
            self.failures.append("an entry has what the server gives")
        if headers.get_all("If-None-Exist") is None:
            self.failures.append("a create is without a condition")
        condition = parse_qs(headers.get("If-None-Exist", ""), strict_parsing=True)
        if condition != {"identifier": [f"{IDENTIFIERS}|{identifier}"]}:
            self.failures.append("a condition isn't about the entry")
        if headers.get("Content-Type") != "application/fhir+json" or headers.get("Accept") != "application/fhir+json":
            self.failures.append("an entry comes as something else than FHIR's JSON")
        request = headers.get("X-Request-ID", "")
        if str(uuid.UUID(request)) != request:
            self.failures.append("a call has no X-Request-ID that is a UUID")


class _FhirHandler(_Handler):
    @override
    def do_POST(self) -> None:
        double = self.notify
        assert isinstance(double, FhirDouble)
        if (kind := self.path.removeprefix("/fhir/R4/")) in TYPES:
            self._carry_out("batches", lambda body: double.create(self.headers, body, kind))
        elif self.path == "/oauth2/token":
            super().do_POST()
        else:
            self._send(outcome(404, "not-found"))

    @override
    def do_GET(self) -> None:
        double = self.notify
        assert isinstance(double, FhirDouble)
        if self.path == "/fhir/R4/metadata":
            self._carry_out("accounts", lambda _: double.give_capabilities(self.headers))
        else:
            self._send(outcome(404, "not-found"))
