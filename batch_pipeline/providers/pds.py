"""The Personal Demographics Service, FHIR R4: one patient's record at a time (PROVIDERS.md 2).

Of an answer only what is needed is read, and strictly: a record of another form is no answer. A name or a date of
birth in the answer isn't kept, and nothing of it is ever told in an error.
"""

import time
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.alias_generators import to_camel

from batch_pipeline.providers.bounded_http import BoundedHttp, Deadline, NoAnswer, NotSent, Reply
from batch_pipeline.providers.nhs_notify_answers import retry_after
from batch_pipeline.providers.nhs_notify_token import TokenSource
from batch_pipeline.providers.pds_account import PdsAccount
from batch_pipeline.providers.protocol import NotTaken, ProviderStopped
from batch_pipeline.rules import nhs_number as rule
from batch_pipeline.rules.demographics import Details, Period, Record, Telecom, judge

TRIES = 4
"""Calls for one patient."""
_FIRST_PAUSE = 1.0
_LONGEST_PAUSE = 60.0
_TRY_AGAIN = (408, 425, 429, 500, 502, 503, 504)
_NO_CODE = "without a code"


class LookUpFailed(Exception):
    """Nothing was learnt of this patient: another time, perhaps. Names the reason, and no patient."""


class ServiceFailed(LookUpFailed):
    """And of another patient nothing would have been learnt either: the service is at fault, and no record."""


class _Model(BaseModel):
    model_config = ConfigDict(alias_generator=to_camel)


class _Coding(_Model):
    code: str | None = None


class _Concept(_Model):
    coding: list[_Coding] = []


class _Period(_Model):
    start: str | None = None
    end: str | None = None


class _Part(_Model):
    url: str
    value_codeable_concept: _Concept | None = None
    value_period: _Period | None = None


class _Extension(_Part):
    extension: list[_Part] = []


class _Telecom(_Model):
    system: str | None = None
    use: str | None = None
    value: str | None = None
    period: _Period = _Period()


class _Meta(_Model):
    security: list[_Coding] = []


class _Patient(_Model):
    resource_type: Literal["Patient"]
    id: str
    meta: _Meta = _Meta()
    birth_date: str | None = None
    deceased_date_time: str | None = None
    deceased_boolean: bool = False
    extension: list[_Extension] = []
    telecom: list[_Telecom] = []


class _Issue(_Model):
    details: _Concept = _Concept()


class _Outcome(_Model):
    resource_type: Literal["OperationOutcome"]
    issue: list[_Issue] = Field(min_length=1)


class Pds:
    """Looks patients up, one at a time.

    Args:
        account: with whose keys.
        pace: waits until the account may be asked; called before each call.
        timeout: of one call.
        wall: the real time, for assertions and for a ``Retry-After`` that is a date.
        steady: seconds by a clock that nobody sets.
        sleep: waits that many seconds.
        new_id: an id for each look-up.

    Raises ``Refused`` for an account whose private key can't be read.
    """

    def __init__(
        self,
        account: PdsAccount,
        *,
        pace: Callable[[], None],
        timeout: timedelta = timedelta(seconds=30),
        wall: Callable[[], datetime] = lambda: datetime.now(UTC),
        steady: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
        new_id: Callable[[], uuid.UUID] = uuid.uuid4,
    ) -> None:
        self._account = account
        self._http = BoundedHttp()
        self._tokens = TokenSource(account, self._http, wall=wall, steady=steady)
        self._pace = pace
        self._timeout = timeout.total_seconds()
        self._wall = wall
        self._steady = steady
        self._sleep = sleep
        self._new_id = new_id

    def look_up(self, nhs_number: str, now: datetime, born: date | None = None) -> Details:
        """What the record of the patient ``born`` on that day (None: it isn't known) says at ``now``.

        Raises:
            LookUpFailed: at once, for an answer that no retry would better.
            ServiceFailed: after its retries.
            ProviderStopped: nobody will be found before the settings are mended.
        """
        request, reason = str(self._new_id()), ""
        for attempt in range(TRIES):
            pause = timedelta(0)
            try:
                reply = self._ask(nhs_number, request)
                if reply.status not in _TRY_AGAIN:
                    return _read(nhs_number, request, reply, born, now)
            except NotTaken as failure:
                reason, pause = str(failure), failure.retry_after
            except (NotSent, NoAnswer) as failure:
                reason = f"PDS wasn't reached: {failure}"
            else:
                reason = f"PDS answered {reply.status}"
                pause = retry_after(reply, self._wall, timedelta(0))
            if attempt + 1 < TRIES:
                self._sleep(min(max(pause.total_seconds(), _FIRST_PAUSE * 2**attempt), _LONGEST_PAUSE))
        raise ServiceFailed(reason)

    def close(self) -> None:
        """Gives up the connections."""
        self._http.close()

    def _ask(self, nhs_number: str, request: str) -> Reply:
        """One call, and a second with a fresh token where the first one's was refused."""
        reply, token = self._call(nhs_number, request)
        if reply.status == 401:
            self._tokens.renounce(token)
            reply, _ = self._call(nhs_number, request)
        return reply

    def _call(self, nhs_number: str, request: str) -> tuple[Reply, str]:
        """The answer, and the token that was shown. The time begins when it is our turn, however long that took."""
        self._pace()
        deadline = Deadline(self._timeout, self._steady)
        token = self._tokens.get(deadline)
        reply = self._http.call(
            "GET",
            self._account.url(nhs_number),
            headers={
                "Authorization": f"Bearer {token}",
                "Accept": "application/fhir+json",
                "X-Request-ID": request,
                "NHSD-End-User-Organisation-ODS": self._account.ods_code,
            },
            deadline=deadline,
        )
        return reply, token


def _read(asked: str, request: str, reply: Reply, born: date | None, now: datetime) -> Details:
    try:
        if reply.status == 200:
            record = _record(_Patient.model_validate_json(reply.body))
            if record.nhs_number != asked and not _answers(reply, request):
                raise NoAnswer("what came is the answer to another request")
            return judge(asked, record, now, born)
    except ValidationError as error:
        codes = _codes(reply.body)
        if not codes:
            raise ServiceFailed(f"PDS sent something else ({error.error_count()} faults)") from None
        raise LookUpFailed(f"PDS answered 200 with {codes[0]}") from None
    codes = _codes(reply.body)
    if reply.status == 404 and "INVALIDATED_RESOURCE" in codes:
        return Details("invalidated")
    if (reply.status == 404 and "RESOURCE_NOT_FOUND" in codes) or (
        reply.status == 400 and "INVALID_RESOURCE_ID" in codes
    ):
        return Details("not_found")
    said = f"PDS answered {reply.status} {codes[0] if codes else _NO_CODE}"
    if reply.status in (401, 403):
        raise ProviderStopped(f"{said}: check the pds API key, and ask what this application may do")
    if reply.status // 100 in (3, 4):
        raise ProviderStopped(f"{said}: check pds.base_url and the workspace's ods_code")
    raise ServiceFailed(said)


def _answers(reply: Reply, request: str) -> bool:
    """Whether an answer with another number is ours: PDS tells whose request it answers.

    Mixed up on the way, it would pass for the number that has superseded ours. One that doesn't say is taken as ours.
    """
    told = reply.headers.get("X-Request-ID")
    return told is None or request in {each.strip().lower() for each in told.split(",")}


def _record(patient: _Patient) -> Record:
    if not rule.is_valid(patient.id):
        raise LookUpFailed("PDS sent a record without an NHS number")
    return Record(
        nhs_number=patient.id,
        security=[coding.code or _NO_CODE for coding in patient.meta.security],
        died="" if patient.deceased_boolean and patient.deceased_date_time is None else patient.deceased_date_time,
        death_notices=[code for each in _extensions(patient, "DeathNotificationStatus") for code in _notices(each)],
        removals=[_period(_time_of(each)) for each in _extensions(patient, "RemovalFromRegistration")],
        telecoms=[Telecom(each.system, each.use, each.value, _period(each.period)) for each in patient.telecom],
        born=patient.birth_date,
    )


def _extensions(patient: _Patient, name: str) -> Iterator[_Extension]:
    """By the end of their address, whose host and path have changed before."""
    return (each for each in patient.extension if each.url.rpartition("-")[2].rpartition("/")[2] == name)


def _notices(status: _Extension) -> list[str]:
    concepts = [part.value_codeable_concept for part in status.extension if part.url == "deathNotificationStatus"]
    codes = [coding.code for concept in concepts if concept is not None for coding in concept.coding]
    return [code or _NO_CODE for code in codes] or [_NO_CODE]


def _time_of(removal: _Extension) -> _Period:
    return next((part.value_period for part in removal.extension if part.value_period is not None), _Period())


def _period(period: _Period) -> Period:
    return Period(period.start, period.end)


def _codes(body: bytes) -> list[str]:
    """Of an OperationOutcome, as far as they are words: they are shown to people."""
    try:
        outcome = _Outcome.model_validate_json(body)
    except ValidationError:
        return []
    codes = (coding.code for issue in outcome.issue for coding in issue.details.coding)
    return [code for code in codes if code and code.isascii() and code.replace("_", "").isalpha() and len(code) < 64]
