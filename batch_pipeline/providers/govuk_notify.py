"""GOV.UK Notify: SMS and email, one request a message (PROVIDERS.md 3).

It doesn't deduplicate: what is posted twice is sent twice. So whatever leaves the smallest doubt counts as unknown, and
is asked about by its reference before it is posted again.
"""

import os
import re
import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import Enum, auto
from functools import partial
from typing import Any, TypeVar, cast
from urllib.parse import SplitResult, urlsplit

from notifications_python_client.errors import HTTPError, InvalidResponse
from typing_extensions import override

from batch_pipeline.clocks import seconds_since_boot
from batch_pipeline.errors import Refused
from batch_pipeline.providers import govuk_notify_refusals as refusals
from batch_pipeline.providers import govuk_notify_templates as templates
from batch_pipeline.providers._refusals_in_a_row import RefusalsInARow
from batch_pipeline.providers.govuk_notify_client import Client, GatedClient, was_never_written
from batch_pipeline.providers.parallel import Jobs
from batch_pipeline.providers.protocol import (
    Answer,
    Channel,
    Limits,
    NotTaken,
    OutcomeUnknown,
    OutgoingMessage,
    Provider,
    ProviderStopped,
    Recovery,
    RefusedMessage,
    Unfinished,
)

NAME = "govuk_notify"
CHANNELS: tuple[Channel, ...] = ("email", "sms")
BASE_URL = "https://api.notifications.service.gov.uk"

CHUNK = 100
TIMEOUT = timedelta(seconds=30)
WORKERS = 16
AT_ONCE = 2
"""Chunks at the same time: while the last requests of one are under way, the next is."""
PER_MINUTE = 3_000
REMEMBERS = timedelta(days=6)
"""It keeps a message's reference for 7 days; a day less leaves no question of when they begin and end."""

_AT_WORK = 0.9
"""The share of a call's time after which nobody is waited for; the rest is for coming back."""
_ONE_REQUEST = 0.3
"""The share of a call's time that one connection or one wait for an answer may take."""
_SHORTEST = 0.001
_QUOTA_PAUSE = timedelta(minutes=1)

_UUID = r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}"
_LOOPBACK = ("localhost", "127.0.0.1", "::1")

_Job = TypeVar("_Job")


@dataclass(frozen=True, slots=True)
class GovukNotifyAccount:
    """A service at GOV.UK Notify. ``Refused`` names the setting that can't be.

    A template of ours is nothing but its fields, so that the text is the one that was approved.
    """

    api_key: str = field(repr=False)
    sms_template_id: str | None = None
    email_template_id: str | None = None
    base_url: str = BASE_URL
    sms_body: str = "body"
    """The field of the SMS template that takes the text: ``((body))``."""
    email_subject: str = "subject"
    email_body: str = "body"
    sms_sender_id: str | None = None
    email_reply_to_id: str | None = None

    def __post_init__(self) -> None:
        _check_base_url(self.base_url)
        if not re.fullmatch(rf".*{_UUID}-{_UUID}", self.api_key):
            raise Refused(f"{NAME}.api_key: this isn't a whole key; copy it again (name, service and secret in one)")
        for setting in ("sms_template_id", "email_template_id", "sms_sender_id", "email_reply_to_id"):
            value: str | None = getattr(self, setting)
            if value is not None and not re.fullmatch(_UUID, value):
                raise Refused(f'{NAME}.{setting}: "{value[:80]}" isn\'t an id; copy it from GOV.UK Notify')

    @property
    def service(self) -> str:
        """The service's id, whose rate all its keys share."""
        return self.api_key[-73:-37]


def _check_base_url(url: str) -> None:
    parts = _split(url)
    if parts is None or not (parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in _LOOPBACK)):
        raise Refused(f'{NAME}.base_url: "{url[:80]}" must begin with https:// and name a host, such as {BASE_URL}')
    if parts.path.strip("/") or parts.query or parts.fragment or parts.username:
        raise Refused(f"{NAME}.base_url: only the host counts, and anything else would be dropped; write {BASE_URL}")


def _split(url: str) -> SplitResult | None:
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        return None
    return parts if parts.hostname else None


class _Fate(Enum):
    TAKEN = auto()
    REFUSED = auto()
    DOUBTED = auto()
    """Refused, and it may be us as well as the recipient."""
    ABSENT = auto()
    """Of a look-up. A look-up that is refused is another thing: nothing is known then."""
    NOT_TAKEN = auto()
    STOPPED = auto()
    UNKNOWN = auto()


@dataclass(frozen=True, slots=True)
class _Outcome:
    """Of one request."""

    fate: _Fate
    reason: str = ""
    """An error's name or a sentence of ours, never the server's words: they may quote a number."""
    pause: timedelta = timedelta(0)

    @property
    def halts(self) -> bool:
        """The next request would fare no better."""
        return self.fate in (_Fate.NOT_TAKEN, _Fate.STOPPED)


_TAKEN = _Outcome(_Fate.TAKEN)
_ABSENT = _Outcome(_Fate.ABSENT)
_LATE = _Outcome(_Fate.UNKNOWN, "no answer in time")
_NOT_BEGUN = _Outcome(_Fate.NOT_TAKEN, "the time was over before they were posted")
_QUOTA = _Outcome(_Fate.NOT_TAKEN, "more requests than it takes in a minute", _QUOTA_PAUSE)
_DAILY_LIMIT = _Outcome(
    _Fate.STOPPED, "the service's daily limit of messages is used up: GOV.UK Notify takes no more until midnight"
)
_DENIED = _Outcome(
    _Fate.STOPPED,
    f"GOV.UK Notify denies us access (AuthError): check {NAME}.api_key, the service's settings, and that this machine's"
    " clock is right to half a minute",
)
_REFUSES_ALL = _Outcome(
    _Fate.STOPPED,
    "it refused several messages in a row: it may not be about the patients; check the service's settings and the"
    " template, or send a test",
)


class GovukNotify(Provider):
    """GOV.UK Notify, for any number of threads.

    Args:
        account: whose messages they are, and by which templates.
        chunk: messages a call may hold.
        timeout: of one whole call.
        workers: requests at the same time. Each worker has a client and a connection of its own, kept for later calls.
        steady: seconds by a clock that nobody sets.
    """

    def __init__(
        self,
        account: GovukNotifyAccount,
        *,
        chunk: int = CHUNK,
        timeout: timedelta = TIMEOUT,
        workers: int = WORKERS,
        steady: Callable[[], float] = seconds_since_boot,
    ) -> None:
        self._account = account
        self._limits = Limits(
            chunk,
            timeout,
            per_minute=PER_MINUTE,
            account=account.service,
            one_by_one=True,
            at_once=AT_ONCE,
            remembers=REMEMBERS,
        )
        self._workers = workers
        self._steady = steady
        self._refused = RefusalsInARow()
        self._fitting: set[Channel] = set()
        self._looking = threading.Lock()
        self._idle: list[GatedClient] = []
        self._idle_lock = threading.Lock()
        self._owner = os.getpid()

    @property
    @override
    def name(self) -> str:
        return NAME

    @property
    @override
    def recovery(self) -> Recovery:
        return Recovery.CAN_BE_ASKED

    @property
    @override
    def limits(self) -> Limits:
        return self._limits

    @override
    def send(self, chunk_reference: str, messages: Sequence[OutgoingMessage], now: datetime) -> Answer:
        """Posts the messages each by itself, several at once. After the first that is denied to us no other is begun."""
        if len(messages) > self._limits.messages:
            raise ValueError(f"{len(messages)} messages in a chunk of at most {self._limits.messages}")
        deadline = self._deadline()
        channels: list[Channel] = list(dict.fromkeys(message.channel for message in messages))
        for channel in channels:
            self._check_channel(channel)
        for channel in channels:
            self._check_template(channel, deadline)
        outcomes = self._outcomes(messages, self._post, deadline)
        return _answer(self._without_doubts([(message.reference, outcome) for message, outcome in outcomes]))

    def _check_channel(self, channel: Channel) -> None:
        if channel not in CHANNELS:
            raise ProviderStopped(f"{NAME} sends no {channel} messages: name another provider for {channel}")
        if not _template(self._account, channel):
            raise ProviderStopped(f"{NAME}.{channel}_template_id is missing: name the template for {channel} messages")

    def _check_template(self, channel: Channel, deadline: float) -> None:
        """Once, before the first post of a channel: raises unless its template is one that our messages fit."""
        if channel in self._fitting:
            return
        if not self._looking.acquire(timeout=max(0.0, deadline - self._steady())):
            raise NotTaken(f"{NAME}: another call still looks its template up")
        try:
            if channel not in self._fitting:
                wanted: list[Channel] = [channel]
                ((_, outcome),) = self._outcomes(wanted, partial(_look_template_up, self._account), deadline)
                if outcome.fate is _Fate.STOPPED:
                    raise ProviderStopped(f"{NAME}: {outcome.reason}")
                if outcome.fate is not _Fate.TAKEN:
                    raise NotTaken(f"{NAME}: its template couldn't be looked up: {outcome.reason}", outcome.pause)
                self._fitting.add(channel)
        finally:
            self._looking.release()

    def _post(self, client: Client, message: OutgoingMessage) -> _Outcome:
        outcome = _outcome(partial(_post, self._account, client, message))
        if outcome.fate is _Fate.TAKEN:
            self._refused.taken()
        elif outcome.fate is _Fate.DOUBTED:
            self._refused.add(message.reference)
            return _REFUSES_ALL if self._refused.are_too_many else outcome
        return outcome

    def _without_doubts(self, outcomes: Sequence[tuple[str, _Outcome]]) -> list[tuple[str, _Outcome]]:
        """Where it turned out that we are refused and not the patients, none of them is failed for it."""
        is_us = self._refused.are_too_many
        return [
            (
                reference,
                _REFUSES_ALL if is_us and outcome.fate is _Fate.DOUBTED and reference in self._refused else outcome,
            )
            for reference, outcome in outcomes
        ]

    @override
    def held(self, references: Sequence[str]) -> set[str]:
        """Asks for each reference.

        Whatever it can't be told of may have been taken, so all but a denial is ``OutcomeUnknown``, with what was found
        in ``accepted``.
        """
        outcomes = self._outcomes(references, _look_up, self._deadline())
        there = tuple(reference for reference, outcome in outcomes if outcome.fate is _Fate.TAKEN)
        open_ones = [outcome for _, outcome in outcomes if outcome.fate not in (_Fate.TAKEN, _Fate.ABSENT)]
        if open_ones:
            denied = [outcome for outcome in open_ones if outcome.fate is _Fate.STOPPED]
            raise _unfinished(ProviderStopped if denied else OutcomeUnknown, denied or open_ones, there)
        return set(there)

    # Requests ----------------------------------------------------------------------------------------------------

    def _deadline(self) -> float:
        """Of a call that begins now."""
        return self._steady() + _AT_WORK * self._limits.timeout.total_seconds()

    def _outcomes(
        self, jobs: Sequence[_Job], request: Callable[[Client, _Job], _Outcome], deadline: float
    ) -> list[tuple[_Job, _Outcome]]:
        """Does the request for each; what isn't answered in time is unknown."""
        at_work: Jobs[_Job, _Outcome] = Jobs(jobs, deadline, self._steady)
        done = at_work.run(partial(self._work, request), self._workers)
        late = [(job, _LATE) for job in done.unfinished]
        return [*done.results, *late, *((job, _NOT_BEGUN) for job in done.not_begun)]

    @override
    def close(self) -> None:
        """Gives up the connections that are kept."""
        with self._idle_lock:
            idle, self._idle = self._idle, []
        for client in idle:
            client.close()

    def _work(self, request: Callable[[Client, _Job], _Outcome], jobs: Jobs[_Job, _Outcome]) -> None:
        """One worker: takes jobs until there are none left to begin."""
        lent = self._borrow()
        lent.gate.closes = jobs.deadline
        longest = _ONE_REQUEST * self._limits.timeout.total_seconds()
        try:
            while (taken := jobs.begin()) is not None:
                place, job = taken
                lent.client.timeout = max(_SHORTEST, min(longest, lent.gate.left()))
                outcome = _outcome(partial(request, lent.client, job))
                jobs.end(place, outcome, halt=outcome.halts)
        finally:
            self._give_back(lent)

    def _borrow(self) -> GatedClient:
        with self._idle_lock:
            if self._owner != os.getpid():  # a fork shares its parent's connections, and must not write to them
                self._idle, self._owner = [], os.getpid()
            if self._idle:
                return self._idle.pop()
        return GatedClient.make(self._account.api_key, self._account.base_url, self._steady)

    def _give_back(self, lent: GatedClient) -> None:
        with self._idle_lock:
            if len(self._idle) < AT_ONCE * self._workers:
                self._idle.append(lent)
                return
        lent.close()


def _template(account: GovukNotifyAccount, channel: Channel) -> str | None:
    return account.sms_template_id if channel == "sms" else account.email_template_id


def _post(account: GovukNotifyAccount, client: Client, message: OutgoingMessage) -> _Outcome:
    template = _template(account, message.channel) or ""
    if message.channel == "sms":
        fields = {account.sms_body: message.text}
        told = client.send_sms_notification(
            message.address, template, fields, message.reference, sms_sender_id=account.sms_sender_id
        )
    else:
        fields = {account.email_subject: message.subject or "", account.email_body: message.text}
        told = client.send_email_notification(
            message.address, template, fields, message.reference, email_reply_to_id=account.email_reply_to_id
        )
    is_ours = isinstance(told, dict) and cast("dict[str, object]", told).get("reference") == message.reference
    return _TAKEN if is_ours else _Outcome(_Fate.UNKNOWN, "an answer about no message of ours")


def _look_template_up(account: GovukNotifyAccount, client: Client, channel: Channel) -> _Outcome:
    """Taken: it is there, and our messages fit."""
    setting, wanted = f"{NAME}.{channel}_template_id", _template(account, channel) or ""
    try:
        told = client.get_template(wanted)
    except HTTPError as error:
        if error.response is None or error.status_code not in {400, 404} or _error_name(error.response) is None:
            raise
        return _Outcome(_Fate.STOPPED, f"{setting} isn't a template of this service: copy it again from GOV.UK Notify")
    if str(told["id"]).lower() != wanted.lower():
        return _Outcome(_Fate.UNKNOWN, "an answer about no template of ours")
    fields = {"sms": {account.sms_body}, "email": {account.email_subject, account.email_body}}[channel]
    fault = templates.fault(told, channel, fields, setting)
    return _TAKEN if fault is None else _Outcome(_Fate.STOPPED, fault)


def _look_up(client: Client, reference: str) -> _Outcome:
    told = client.get_all_notifications(reference=reference)
    found = [notification["reference"] for notification in told["notifications"]]
    return _TAKEN if reference in found else _ABSENT


# What an answer means ------------------------------------------------------------------------------------------------


def _outcome(request: Callable[[], _Outcome]) -> _Outcome:
    try:
        return request()
    except HTTPError as error:
        return _denial(error) if error.response is not None else _failure(error)
    except InvalidResponse:
        return _Outcome(_Fate.UNKNOWN, "an answer that isn't JSON")
    except Exception as error:  # noqa: BLE001 - whatever went wrong, the message may have been taken
        return _Outcome(_Fate.UNKNOWN, f"an answer that can't be read ({type(error).__name__})")


def _failure(error: HTTPError) -> _Outcome:
    """Of a request without an answer."""
    cause = type(error.__cause__).__name__
    if was_never_written(error):
        return _Outcome(_Fate.NOT_TAKEN, f"can't be connected to ({cause})")
    return _Outcome(_Fate.UNKNOWN, f"no answer ({cause})")


def _denial(error: HTTPError) -> _Outcome:
    """Of an answer that isn't a success. One that isn't in GOV.UK Notify's own form comes from who knows where."""
    name = _error_name(error.response)
    match error.status_code, name:
        case 400, str():
            return _bad_request(name, _words(error.response))
        case 403, "AuthError":
            return _DENIED
        case 429, "RateLimitError":
            return _QUOTA
        case 429, "TooManyRequestsError":
            return _DAILY_LIMIT
        case status, _:
            return _Outcome(_Fate.UNKNOWN, f"status {status}")


def _bad_request(name: str, words: Sequence[str]) -> _Outcome:
    """Of a 400. Its words go no further than this."""
    mend = refusals.mend(words)
    if mend is not None:
        return _Outcome(_Fate.STOPPED, f"GOV.UK Notify refuses us ({name}): {mend}")
    return _Outcome(_Fate.REFUSED if refusals.is_of_the_recipient(name, words) else _Fate.DOUBTED, name)


def _words(response: Any) -> list[str]:
    errors = cast("list[object]", response.json()["errors"])
    return [str(cast("dict[str, object]", error).get("message")) for error in errors if isinstance(error, dict)]


def _error_name(response: Any) -> str | None:
    try:
        name = response.json()["errors"][0]["error"]
    except (ValueError, LookupError, TypeError, RecursionError):
        return None
    return name if isinstance(name, str) and re.fullmatch(r"[A-Za-z]{1,60}", name) else None


def _answer(outcomes: Sequence[tuple[str, _Outcome]]) -> Answer:
    """The answer, if it tells of every message; raises the kind of ``Unfinished`` that holds of all the rest."""
    accepted = tuple(reference for reference, outcome in outcomes if outcome.fate is _Fate.TAKEN)
    refused = tuple(
        RefusedMessage(reference, outcome.reason)
        for reference, outcome in outcomes
        if outcome.fate in (_Fate.REFUSED, _Fate.DOUBTED)
    )
    rest = [outcome for _, outcome in outcomes if outcome.fate not in (_Fate.TAKEN, _Fate.REFUSED, _Fate.DOUBTED)]
    for fate, kind in _KINDS.items():
        telling = [outcome for outcome in rest if outcome.fate is fate]
        if telling:
            raise _unfinished(kind, telling, accepted, refused, pause=max(outcome.pause for outcome in rest))
    return Answer(refused)


_KINDS: Mapping[_Fate, type[Unfinished]] = {
    # One of which nothing is known is enough for all to be asked about.
    _Fate.UNKNOWN: OutcomeUnknown,
    _Fate.STOPPED: ProviderStopped,
    _Fate.NOT_TAKEN: NotTaken,
}


def _unfinished(
    kind: type[Unfinished],
    telling: Sequence[_Outcome],
    accepted: Sequence[str],
    refused: Sequence[RefusedMessage] = (),
    pause: timedelta | None = None,
) -> Unfinished:
    """With the commonest reason, where there is another than that others ended the call."""
    reasons = [outcome.reason for outcome in telling if outcome is not _NOT_BEGUN] or [_NOT_BEGUN.reason]
    reason, _ = Counter(reasons).most_common(1)[0]
    pause = max(outcome.pause for outcome in telling) if pause is None else pause
    return kind(f"{NAME}: {reason}", pause, accepted=accepted, refused=refused)
