"""Who of a practice's patients uses the NHS App, as NHS Notify tells once a day (SPEC 2.4, PROVIDERS.md 1)."""

import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Annotated
from urllib.parse import SplitResult, parse_qs, urlencode, urlsplit

from pydantic import BaseModel, ConfigDict, StrictBool, StringConstraints, ValidationError
from pydantic.alias_generators import to_camel

from batch_pipeline.providers.bounded_http import BoundedHttp, Deadline, NoAnswer, NotSent, Reply
from batch_pipeline.providers.nhs_notify_account import NhsNotifyAccount
from batch_pipeline.providers.nhs_notify_answers import retry_after
from batch_pipeline.providers.nhs_notify_token import TokenSource
from batch_pipeline.providers.protocol import NotTaken, ProviderStopped

TRIES = 6
"""Calls for one page."""
WITHIN = timedelta(minutes=10)
"""For all pages of a practice, with all waiting."""
_ONE_CALL = 30.0
_FIRST_PAUSE = 2.0
_TRY_AGAIN = (408, 425, 429, 500, 502, 503, 504)

_Number = Annotated[str, StringConstraints(pattern=r"^[0-9]{10}$")]


class AccountsNotFetched(Exception):
    """The accounts of a practice couldn't be had, or not all of them: keep the snapshot that there is."""


class _Model(BaseModel):
    model_config = ConfigDict(alias_generator=to_camel)


class _Account(_Model):
    nhs_number: _Number
    notifications_enabled: StrictBool


class _Attributes(_Model):
    accounts: list[_Account]


class _Data(_Model):
    id: str
    attributes: _Attributes


class _Links(_Model):
    next: str | None = None
    last: str | None = None


class _Page(_Model):
    data: _Data
    links: _Links


class NhsAppAccounts:
    """Fetches a practice's NHS App accounts.

    Args:
        account: with whose keys.
        wall: the real time, for assertions and for a ``Retry-After`` that is a date.
        steady: seconds by a clock that nobody sets.
        sleep: waits that many seconds.
        within: for all pages of a practice.

    Raises ``Refused`` for an account whose private key can't be read.
    """

    def __init__(
        self,
        account: NhsNotifyAccount,
        *,
        wall: Callable[[], datetime] = lambda: datetime.now(UTC),
        steady: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
        within: timedelta = WITHIN,
    ) -> None:
        self._account = account
        self._http = BoundedHttp()
        self._tokens = TokenSource(account, self._http, wall=wall, steady=steady)
        self._wall = wall
        self._steady = steady
        self._sleep = sleep
        self._within = within.total_seconds()

    def fetch(self, ods_code: str) -> Iterator[list[tuple[str, bool]]]:
        """Pages of ``(nhs_number, notifications_enabled)``. All of them are a snapshot; a part of them is none.

        Raises:
            AccountsNotFetched: with the reason, before or after any page.
        """
        deadline = Deadline(self._within, self._steady)
        number: int | None = 1
        while number is not None:
            page = self._page(ods_code, number, deadline)
            if page.data.id.upper() != ods_code.upper():
                raise AccountsNotFetched(f"NHS App accounts of {ods_code}: page {number} is another practice's")
            # A practice that nobody of has the App is a fault of the answer, and would send everybody a text instead.
            if not page.data.attributes.accounts:
                raise AccountsNotFetched(f"NHS App accounts of {ods_code}: page {number} names nobody")
            # Looked at before the page is given away: a broken chain of pages is known before its last one is used.
            following = self._following(ods_code, number, page.links)
            yield [(account.nhs_number, account.notifications_enabled) for account in page.data.attributes.accounts]
            number = following

    def close(self) -> None:
        """Gives up the connections."""
        self._http.close()

    def _following(self, ods_code: str, number: int, links: _Links) -> int | None:
        """The next page's number. The link itself isn't followed: it could lead our token, or us, elsewhere."""
        following = None if links.next is None else self._number(ods_code, links.next)
        last = None if links.last is None else self._number(ods_code, links.last)
        if following is None and last is not None and last > number:
            raise AccountsNotFetched(f"NHS App accounts of {ods_code}: page {number} of {last} leads no further")
        if following is not None and following != number + 1:
            raise AccountsNotFetched(f"NHS App accounts of {ods_code}: page {number} leads to page {following}")
        return following

    def _number(self, ods_code: str, link: str) -> int:
        base = urlsplit(self._account.base_url)
        try:
            parts = urlsplit(link)
            same = not parts.netloc or _origin(parts) == _origin(base)
            pages = parse_qs(parts.query, strict_parsing=True).get("page", [])
        except ValueError:
            raise AccountsNotFetched(f"NHS App accounts of {ods_code}: a link to a page can't be read") from None
        if not same:
            raise AccountsNotFetched(
                f"NHS App accounts of {ods_code}: a link leads to another host, and isn't followed"
            )
        if len(pages) != 1 or not (pages[0].isascii() and pages[0].isdigit() and len(pages[0]) < 7):
            raise AccountsNotFetched(f"NHS App accounts of {ods_code}: a link names no page")
        return int(pages[0])

    def _page(self, ods_code: str, number: int, deadline: Deadline) -> _Page:
        """One page, asked for as often as it takes, within bounds."""
        reason = "no time is left"
        for attempt in range(TRIES):
            if deadline.left() == 0:
                break
            try:
                reply = self._ask(ods_code, number, deadline)
            except NotTaken as failure:
                reason, pause = str(failure), failure.retry_after
            except ProviderStopped as stop:
                raise AccountsNotFetched(f"NHS App accounts of {ods_code}: {stop}") from None
            except (NotSent, NoAnswer) as failure:
                reason, pause = f"NHS Notify wasn't reached: {failure}", timedelta(0)
            else:
                if reply.status not in _TRY_AGAIN:
                    return _read(ods_code, number, reply)
                reason = f"NHS Notify answered {reply.status}"
                pause = retry_after(reply, self._wall, timedelta(0))
            if attempt + 1 < TRIES:
                self._wait(max(pause.total_seconds(), _FIRST_PAUSE * 2**attempt), deadline)
        raise AccountsNotFetched(f"NHS App accounts of {ods_code}, page {number}: {reason}; try again later")

    def _wait(self, seconds: float, deadline: Deadline) -> None:
        self._sleep(min(seconds, deadline.left()))

    def _ask(self, ods_code: str, number: int, whole: Deadline) -> Reply:
        deadline = Deadline(min(_ONE_CALL, whole.left()), self._steady)
        token = self._tokens.get(deadline)
        reply = self._call(ods_code, number, token, deadline)
        if reply.status == 401:
            self._tokens.renounce(token)
            reply = self._call(ods_code, number, self._tokens.get(deadline), deadline)
        return reply

    def _call(self, ods_code: str, number: int, token: str, deadline: Deadline) -> Reply:
        query = urlencode({"ods-organisation-code": ods_code, "page": number})
        return self._http.call(
            "GET",
            self._account.url(f"channels/nhsapp/accounts?{query}"),
            headers={"Authorization": f"Bearer {token}", "Accept": "application/vnd.api+json"},
            deadline=deadline,
        )


def _origin(parts: SplitResult) -> tuple[str, str | None, int | None]:
    return parts.scheme, parts.hostname, parts.port


def _read(ods_code: str, number: int, reply: Reply) -> _Page:
    where = f"NHS App accounts of {ods_code}, page {number}"
    if reply.status != 200:
        raise AccountsNotFetched(f"{where}: NHS Notify answered {reply.status}: {_mend(reply.status)}")
    try:
        return _Page.model_validate_json(reply.body)
    except ValidationError as error:
        raise AccountsNotFetched(f"{where}: NHS Notify sent something else ({error.error_count()} faults)") from None


def _mend(status: int) -> str:
    match status:
        case 400 | 404:
            return "check the practice's ods_code, and whether it is one of the NHS App's"
        case 401 | 403:
            return "check the API key, and ask NHS Notify what this application may do"
        case _:
            return "ask NHS Notify what it means"
