"""The writer to a FHIR server: a conditional create an entry, which a server that has it already takes as done.

``POST [base]/Communication`` with ``If-None-Exist: identifier=SYSTEM|VALUE``: 201 it was made, 200 it was there. So an
entry whose answer was lost is simply posted again. What comes back is never told on: a server quotes what it was sent.
"""

import re
import time
import uuid
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from json import dumps
from types import MappingProxyType
from urllib.parse import quote

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic.alias_generators import to_camel

from batch_pipeline.errors import Refused
from batch_pipeline.providers.addresses import refuse_bad_url, token_endpoint_of
from batch_pipeline.providers.bounded_http import BoundedHttp, Deadline, NoAnswer, NotSent, Reply
from batch_pipeline.providers.nhs_notify_answers import retry_after
from batch_pipeline.providers.nhs_notify_token import TokenSource
from batch_pipeline.providers.protocol import NotTaken, ProviderStopped
from batch_pipeline.records.pace import LONGEST_WAIT, Pace
from batch_pipeline.records.writer import IDENTIFIERS, Entry, Outcome, StillOurs, WriterStopped

TRIES = 4
"""Calls for one entry in one run."""
GIVE_UP_AFTER = 3
"""Entries in a row that the server couldn't take after all tries: it is down, and not they."""
FEW_REFUSALS, MANY_REFUSALS = 3, 10
"""In a row, before any entry was taken, and after: then it is us that the server refuses, and not patients' entries."""
_FIRST_PAUSE = 1.0
_TRY_AGAIN = (408, 409, 425, 429)
"""And all 5xx. 409: two creates met, of which one was made."""
_FHIR = "application/fhir+json"
_NO_HEADERS: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class FhirAccount:
    """One record system, and by which key it knows us. ``repr`` shows no secret. ``Refused`` for what can't be right."""

    base_url: str
    token: str | None = field(default=None, repr=False)
    """A bearer token; or else the three that follow, and tokens are fetched."""
    api_key: str = field(default="", repr=False)
    key_id: str = ""
    """The ``kid`` under which the public key is registered."""
    private_key: str = field(default="", repr=False)
    token_url: str | None = None
    """None: ``/oauth2/token`` on the host of ``base_url``."""
    service: str = "the record system"
    group: str = "record"

    def __post_init__(self) -> None:
        refuse_bad_url("record.base_url", self.base_url)
        if self.token_url:
            refuse_bad_url("record.token_url", self.token_url)

    @property
    def token_endpoint(self) -> str:
        """Where tokens come from; also the audience that the assertion names, letter by letter."""
        return self.token_url or token_endpoint_of(self.base_url)

    def url(self, resource_type: str) -> str:
        """Of all resources of a type."""
        return f"{self.base_url.rstrip('/')}/{resource_type}"


class _Model(BaseModel):
    model_config = ConfigDict(alias_generator=to_camel)


class _Issue(_Model):
    code: str = ""


class _Outcome(_Model):
    issue: list[_Issue] = []


class _Type(_Model):
    type: str
    conditional_create: bool = False


class _Rest(_Model):
    resource: list[_Type] = []


class _Capabilities(_Model):
    resource_type: str
    rest: list[_Rest] = []


class _Later(Exception):
    """This entry couldn't be written now, after all tries."""


class FhirServer:
    """Writes entries one by one, each when it is its turn.

    Args:
        account: where to, with whose key.
        pace: the turns.
        timeout: of one call.
        wall: the machine's clock, for assertions and for a ``Retry-After`` that is a date.
        steady: seconds by a clock that nobody sets.
    """

    at_once = 20

    def __init__(
        self,
        account: FhirAccount,
        pace: Pace,
        timeout: timedelta,
        *,
        wall: Callable[[], datetime] = lambda: datetime.now(UTC),
        steady: Callable[[], float] = time.monotonic,
    ) -> None:
        self._account = account
        self._pace = pace
        self._timeout = timeout
        self._wall = wall
        self._steady = steady
        self._http = BoundedHttp()
        self._tokens = None if account.token else TokenSource(account, self._http, wall=wall, steady=steady)
        self._refused_in_a_row, self._late_in_a_row = 0, 0
        self._has_taken = False

    @property
    def lease(self) -> timedelta:
        """Renewed right before each call, after which there may be as long a wait for the next."""
        return 10 * self._timeout + LONGEST_WAIT

    def check(self, resource_type: str) -> None:
        """``Refused`` for a server that doesn't say that it makes a resource of a type only where there is none.

        One that ignores the condition would have an entry twice whenever an answer is lost.
        """
        try:
            reply = self._call("GET", "metadata")
            said = _Capabilities.model_validate_json(reply.body) if reply.status == 200 else None
        except ValidationError:
            said = None
        except (NotSent, NoAnswer, NotTaken, ProviderStopped) as failure:
            raise WriterStopped(f"the record system wasn't reached: {failure}") from None
        rests = said.rest if said else list[_Rest]()
        if resource_type not in {each.type for rest in rests for each in rest.resource if each.conditional_create}:
            raise Refused(
                f"record.base_url: this server doesn't say (GET metadata) that it creates each {resource_type} conditionally, "
                "so an entry might be written twice: check the address, or let it be switched on there"
            )

    def write(self, chunk: str, entries: Sequence[Entry], still_ours: StillOurs) -> Iterator[Sequence[Outcome]]:
        """Each entry's outcome as soon as it is known; of one that was refused, when it is known to be its own fault.

        That is when another has been taken, or nothing is left to try: where all are refused, none is to blame.
        """
        del chunk  # the server goes by identifiers
        refused = list[Outcome]()
        for entry in entries:
            outcome = self._outcome_of(entry, still_ours)
            if outcome.became == "refused":
                refused.append(outcome)
            elif outcome.became == "written":
                yield [*refused, outcome]
                refused = []
            else:
                yield [outcome]
            self._stop_if_it_is_us(outcome)
        if refused:
            yield refused

    def _outcome_of(self, entry: Entry, still_ours: StillOurs) -> Outcome:
        try:
            outcome = self._create(entry, still_ours)
        except _Later as late:
            self._late_in_a_row += 1
            return Outcome(entry.identifier, "later", str(late))
        self._late_in_a_row = 0
        return outcome

    def found(
        self, batch: str, resource_type: str, known: Callable[[], Collection[str]]
    ) -> Iterator[tuple[str, list[str]]]:
        """Nothing: what a restored ledger has forgotten is posted again, and is there already."""
        del batch, resource_type, known
        return iter(())

    def close(self) -> None:
        """Gives up the connections."""
        self._http.close()

    def _create(self, entry: Entry, still_ours: StillOurs) -> Outcome:
        reason = ""
        for attempt in range(TRIES):
            pause = timedelta(0)
            self._pace.wait()
            still_ours()
            try:
                reply = self._post(entry)
            except NotTaken as failure:
                reason, pause = str(failure), failure.retry_after
            except (NotSent, NoAnswer) as failure:
                reason = f"the record system gave no answer: {failure}"
            except ProviderStopped as stop:
                raise WriterStopped(str(stop)) from None
            else:
                if reply.status not in _TRY_AGAIN and reply.status < 500:
                    return self._outcome(entry, reply)
                reason = f"the record system answered {_said(reply)}"
                pause = retry_after(reply, self._wall, timedelta(0))
            self._pause(pause, attempt, reason)
        raise _Later(reason)

    def _post(self, entry: Entry) -> Reply:
        condition = f"identifier={quote(f'{IDENTIFIERS}|{entry.identifier}', safe='')}"
        body = dumps(entry.resource, ensure_ascii=False, separators=(",", ":")).encode()
        headers = {"Content-Type": _FHIR, "Prefer": "return=minimal", "If-None-Exist": condition}
        return self._call("POST", str(entry.resource["resourceType"]), body, headers)

    def _call(
        self, method: str, what: str, body: bytes | None = None, headers: Mapping[str, str] = _NO_HEADERS
    ) -> Reply:
        """One call, and a second with a fresh token where a fetched one was refused."""
        deadline = Deadline(self._timeout.total_seconds(), self._steady)
        for renewed in (False, True):
            token = self._account.token or (self._tokens.get(deadline) if self._tokens else "")
            reply = self._http.call(
                method,
                self._account.url(what),
                headers={
                    "Authorization": f"Bearer {token}",
                    "Accept": _FHIR,
                    "X-Request-ID": str(uuid.uuid4()),
                    **headers,
                },
                content=body,
                deadline=deadline,
            )
            if reply.status != 401 or self._tokens is None or renewed:
                break
            self._tokens.renounce(token)
        if reply.status == 401:
            raise ProviderStopped("the record system doesn't know us (401): check the token, or the keys, of record")
        return reply

    def _pause(self, asked_for: timedelta, attempt: int, reason: str) -> None:
        """Before the next try, and for everybody else too where the server asks for it."""
        self._pace.hold_back(asked_for)
        if asked_for > LONGEST_WAIT:
            raise WriterStopped(f"{reason}, and wants to be left alone for {asked_for.total_seconds():.0f} seconds")
        if attempt + 1 < TRIES and not asked_for:
            self._pace.sleep(_FIRST_PAUSE * 2**attempt)

    def _outcome(self, entry: Entry, reply: Reply) -> Outcome:
        if reply.status in (200, 201):
            self._has_taken, self._refused_in_a_row = True, 0
            return Outcome(entry.identifier, "written")
        if reply.status // 100 != 4:
            raise WriterStopped(f"the record system answered {_said(reply)}: check record.base_url")
        self._refused_in_a_row += 1
        return Outcome(entry.identifier, "refused", _said(reply))

    def _stop_if_it_is_us(self, outcome: Outcome) -> None:
        if self._late_in_a_row >= GIVE_UP_AFTER:
            raise WriterStopped(f"{outcome.code}, {GIVE_UP_AFTER} entries in a row")
        if self._refused_in_a_row >= (MANY_REFUSALS if self._has_taken else FEW_REFUSALS):
            raise WriterStopped(
                f"the record system refused {self._refused_in_a_row} entries in a row ({outcome.code}): check "
                "record.base_url, and what this account may do"
            )


def _said(reply: Reply) -> str:
    """The status, and FHIR's code of the first issue; its words may quote a patient."""
    try:
        issues = _Outcome.model_validate_json(reply.body).issue
    except ValidationError:
        issues = []
    code = issues[0].code if issues else ""
    return f"{reply.status} {code}" if re.fullmatch(r"[a-z-]{1,40}", code) else str(reply.status)
