"""PDS as PROVIDERS.md 2 describes it, on loopback, and stricter: what no client may do is a test's failure.

Its tokens are those of the NHS Notify double: the platform is one.
"""

import threading
import time
import uuid
from collections import defaultdict
from email.message import Message
from typing import Any, Self

from typing_extensions import override

from batch_pipeline.providers.pds_account import PdsAccount
from batch_pipeline.rules import nhs_number
from batch_pipeline_tests.providers.nhs_notify_double import (
    API_KEY,
    KEY_ID,
    NhsNotifyDouble,
    Reply,
    _Handler,
    _Server,
    private_key,
)

_CORE = "https://fhir.hl7.org.uk/StructureDefinition/Extension-UKCore-"
_PDS = "https://fhir.nhs.uk/StructureDefinition/Extension-PDS-"


def outcome(status: int, code: str, **headers: str) -> Reply:
    issue = {"severity": "error", "code": "value", "details": {"coding": [{"version": "1", "code": code}]}}
    said = {name.replace("_", "-"): value for name, value in headers.items()}
    return Reply(status, {"resourceType": "OperationOutcome", "issue": [issue]}, said)


def telecom(system: str, use: str, value: str, start: str | None = None, end: str | None = None) -> dict[str, Any]:
    period = {name: when for name, when in (("start", start), ("end", end)) if when is not None}
    return {"id": "1", "system": system, "use": use, "value": value, "period": period}


def mobile(value: str, **period: str) -> dict[str, Any]:
    return telecom("phone", "mobile", value, **period)


def email(value: str, **period: str) -> dict[str, Any]:
    return telecom("email", "home", value, **period)


def death_notice(code: str) -> dict[str, Any]:
    concept = {
        "coding": [{"system": "https://fhir.hl7.org.uk/CodeSystem/UKCore-DeathNotificationStatus", "code": code}]
    }
    return {
        "url": f"{_CORE}DeathNotificationStatus",
        "extension": [
            {"url": "deathNotificationStatus", "valueCodeableConcept": concept},
            {"url": "systemEffectiveDate", "valueDateTime": "2020-10-22T00:00:00+00:00"},
        ],
    }


def removal(start: str = "2020-01-01T00:00:00+00:00", end: str | None = None) -> dict[str, Any]:
    concept = {"coding": [{"system": "https://fhir.nhs.uk/CodeSystem/PDS-RemovalReasonExitCode", "code": "SCT"}]}
    period = {"start": start} if end is None else {"start": start, "end": end}
    return {
        "url": f"{_PDS}RemovalFromRegistration",
        "extension": [
            {"url": "removalFromRegistrationCode", "valueCodeableConcept": concept},
            {"url": "effectiveTime", "valuePeriod": period},
        ],
    }


def record(number: str, *telecoms: dict[str, Any], security: str = "U", **more: Any) -> dict[str, Any]:
    """A record as the service has it, with much that isn't read."""
    return {
        "resourceType": "Patient",
        "id": number,
        "identifier": [{"system": "https://fhir.nhs.uk/Id/nhs-number", "value": number}],
        "meta": {"versionId": "2", "security": [{"system": "http://terminology.hl7.org/", "code": security}]},
        "name": [{"id": "n", "use": "usual", "given": ["Ash"], "family": "Green"}],
        "gender": "female",
        "birthDate": "1980-01-31",
        "telecom": list(telecoms),
        **more,
    }


class PdsDouble(NhsNotifyDouble):
    """A server on a port of its own, from ``with`` on; ``records`` by the number that is asked for.

    Args:
        per_second: more calls than this within any second are answered 429; none: as many as come.
    """

    def __init__(self, *, per_second: int | None = None, token_seconds: int = 599) -> None:
        super().__init__(token_seconds=token_seconds)
        self.per_second = per_second
        self.records: dict[str, dict[str, Any] | Reply] = {}
        self.requests: dict[str, list[str]] = defaultdict(list)
        """X-Request-ID of each call, by the number that was asked for."""
        self.calls: list[float] = []
        self.down = False
        self._ids = dict[str, str]()

    @override
    def __enter__(self) -> Self:
        double = self

        class Handler(_PdsHandler):
            notify = double

        self._server = _Server(("127.0.0.1", 0), Handler)
        self.host = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, args=[0.01], daemon=True).start()
        return self

    def pds_account(self, **changes: Any) -> PdsAccount:
        known: dict[str, Any] = {"base_url": self.host, "api_key": API_KEY, "key_id": KEY_ID, "ods_code": "A99999"}
        known["private_key"] = private_key()
        return PdsAccount(**{**known, **changes})

    def asked_for(self) -> list[str]:
        """Each number that was ever asked for, in that order."""
        return list(self.requests)

    def give_record(self, headers: Message, number: str) -> Reply:
        with self._lock:
            self.calls.append(time.monotonic())
            lately = [each for each in self.calls if each > self.calls[-1] - 1]
        self._note(headers, number)
        if not self._is_known(headers):
            return outcome(401, "ACCESS_DENIED")
        if self.down:
            return outcome(503, "SERVICE_UNAVAILABLE", Retry_After="5")
        if self.per_second is not None and len(lately) > self.per_second:
            return outcome(429, "TOO_MANY_REQUESTS")
        if not nhs_number.is_valid(number):
            return outcome(400, "INVALID_RESOURCE_ID")
        found = self.records.get(number)
        if found is None:
            return outcome(404, "RESOURCE_NOT_FOUND")
        mirrored = {"X-Request-Id": headers.get("X-Request-ID", "").upper()}
        return found if isinstance(found, Reply) else Reply(200, found, mirrored)

    def _note(self, headers: Message, number: str) -> None:
        """An id is one look-up's; a look-up keeps its id, and says for whom it asks."""
        given = headers.get("X-Request-ID", "")
        try:
            assert str(uuid.UUID(given)) == given
        except (ValueError, AssertionError):
            self.failures.append("a call has no X-Request-ID that is a UUID")
        if headers.get("NHSD-End-User-Organisation-ODS") != "A99999":
            self.failures.append("a call doesn't say for which organisation")
        with self._lock:
            if self._ids.setdefault(given, number) != number:
                self.failures.append("an X-Request-ID is used for another patient")
            self.requests[number].append(given)


class _PdsHandler(_Handler):
    @override
    def do_GET(self) -> None:
        double, base = self.notify, "/personal-demographics/FHIR/R4/Patient/"
        assert isinstance(double, PdsDouble)
        if self.path.startswith(base):
            number = self.path.removeprefix(base)
            self._carry_out("accounts", lambda _: double.give_record(self.headers, number))
        else:
            self._send(outcome(404, "NOT_A_PATH"))
