"""A patient's way: the address in the message, the date of birth, what was sent (SPEC 2.12).

``/{token}`` asks for the date of birth, or shows what the link opens to a browser that has given it in the last half
hour; ``/{token}/attachment`` is the file. Whatever isn't a link that opens (never made, over, revoked) is answered by
one and the same page, after the same question to the ledger.
"""

import json
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs
from zoneinfo import ZoneInfo

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from batch_pipeline.clocks import seconds_since_boot
from batch_pipeline.gateway import bodies
from batch_pipeline.gateway.logs import TOLD, Told, where
from batch_pipeline.gateway.pages.answers import FILE_HEADERS, HEADERS, page, see_other, style_sheet
from batch_pipeline.gateway.pages.callers import LOOPBACK, caller_of
from batch_pipeline.gateway.pages.opening import Busy, Opening
from batch_pipeline.gateway.pages.signing import COOKIE, SESSION, Signer
from batch_pipeline.gateway.pages.throttle import Throttle
from batch_pipeline.gateway.pages.views import Sender, Views, day_in_words, load_css
from batch_pipeline.ledger.engine import Ledger
from batch_pipeline.ledger.links import Link
from batch_pipeline.rules.attachments import Attachment, size_in_words
from batch_pipeline.rules.links import LinkKeys, NotADate, hash_of, typed_date

_UNKNOWN_SENDER = Sender("the organisation that sent you the message", ZoneInfo("Europe/London"))
_PARTS = ("day", "month", "year")
_PROBLEM = "Sorry, there is a problem with this page"
_TOO_LONG = "The page was open for too long. Enter your date of birth again"


@dataclass(frozen=True, slots=True)
class PageLimits:
    """What one caller may ask of one process in a minute, and how long a page may wait for the ledger."""

    requests_by_address: int = 1_200
    """Behind the address of a mobile network there may be thousands of patients."""
    requests_of_link: int = 60
    seconds: float = 10
    body_bytes: int = 4_096


@dataclass(frozen=True, slots=True)
class PagesOf:
    """What the pages need of a home."""

    keys: LinkKeys
    senders: Mapping[str, Sender]
    """By workspace."""
    kept_attachment: Callable[[str], Path]
    """Where a file lies, by its SHA-256."""
    hashed: Callable[[str], str]
    """A keyed hash, for network addresses."""
    limits: PageLimits = field(default_factory=PageLimits)
    proxies: Collection[str] = LOOPBACK
    """Who is believed about whom a request comes from."""
    steady: Callable[[], float] = seconds_since_boot


@dataclass(frozen=True, slots=True)
class _Visit:
    """A request for a link's page."""

    request: Request
    token: str
    token_hash: str
    address: str
    now: datetime
    told: Told


class Pages:
    """The patients' pages over a ledger."""

    def __init__(self, ledger: Ledger, of: PagesOf, clock: Callable[[], datetime]) -> None:
        self._of = of
        self._clock = clock
        self._views = Views(load_css())
        self._signer = Signer(of.keys.sessions)
        self._opening = Opening(ledger, of.keys, of.hashed, seconds=of.limits.seconds)
        self._by_address = Throttle(of.limits.requests_by_address, of.steady)
        self._by_link = Throttle(of.limits.requests_of_link, of.steady)

    def routes(self) -> Sequence[Route]:
        """Behind all the gateway's others: a token may be any word."""
        return [
            Route("/robots.txt", _robots),
            Route("/favicon.ico", _no_icon),
            Route("/assets/{name}", self._asset),
            Route(
                "/{token}",
                _Endpoint(self._answer, self._visit, {"GET": self._show, "HEAD": self._show, "POST": self._take}),
            ),
            Route(
                "/{token}/attachment",
                _Endpoint(self._answer, self._visit, {"GET": self._hand_out, "HEAD": self._hand_out}),
            ),
        ]

    async def _asset(self, request: Request) -> Response:
        if f"/assets/{request.path_params['name']}" != self._views.css_path:
            return page(self._views.render("gone"), 404)
        return style_sheet(self._views.css)

    # Each request ------------------------------------------------------------------------------------------------

    def _visit(self, request: Request) -> _Visit:
        token = request.path_params["token"]
        told: Told = request.scope[TOLD]
        told.event = "page"
        address = caller_of(request, self._of.proxies)
        return _Visit(request, token, hash_of(token), address, self._clock(), told)

    async def _answer(self, visit: _Visit, show: Callable[[_Visit, Link], Awaitable[Response]]) -> Response:
        """What ``show`` answers for a link that is open; for all others what they are."""
        try:
            if not (self._by_address.lets(visit.address) and self._by_link.lets(visit.token_hash)):
                return self._later(429, "Too many pages were asked for at once")
            link = await self._opening.find(visit.token_hash)
            standing = "gone" if link is None else link.standing(visit.now)
            if link is None or standing == "gone":
                return self._gone()
            visit.told.workspace = link.workspace
            return self._locked(link) if standing == "locked" else await show(visit, link)
        except Busy as busy:
            visit.told.fault = str(busy)
            return self._later(503, _PROBLEM)
        except (HTTPException, ClientDisconnect):
            raise
        except Exception as error:  # noqa: BLE001 - a patient is told in words that they can read
            visit.told.fault = where(error)
            return self._later(500, _PROBLEM)

    def _later(self, status: int, heading: str, when: str = "a few minutes", seconds: int = 60) -> Response:
        says = f"Please try again in {when}."
        return page(self._views.render("problem", heading=heading, says=says), status, {"Retry-After": str(seconds)})

    def _gone(self) -> Response:
        return page(self._views.render("gone"), 404)

    def _locked(self, link: Link) -> Response:
        return page(self._views.render("locked", sender=self._sender(link)), 403)

    def _sender(self, link: Link) -> Sender:
        return self._of.senders.get(link.workspace, _UNKNOWN_SENDER)

    def _is_in_session(self, visit: _Visit) -> bool:
        signed = visit.request.cookies.get(COOKIE, "")
        return self._signer.holds(signed, "session", visit.token_hash, visit.now)

    # What a link opens -------------------------------------------------------------------------------------------

    async def _show(self, visit: _Visit, link: Link) -> Response:
        if not self._is_in_session(visit):
            return self._ask_for_date(visit, link)
        file = _attachment_of(link)
        if file is None:
            return self._gone()
        sender = self._sender(link)
        return page(
            self._views.render(
                "attachment",
                sender=sender,
                token=visit.token,
                name=file.name,
                label=file.label,
                size=size_in_words(file.size),
                until=day_in_words(link.ends_at(visit.now), sender.zone),
            )
        )

    async def _hand_out(self, visit: _Visit, link: Link) -> Response:
        if not self._is_in_session(visit):
            return see_other(f"/{visit.token}")
        file = _attachment_of(link)
        if file is None:
            return self._gone()
        path = self._of.kept_attachment(file.sha256)
        if not path.is_file():
            visit.told.fault = "the attachment isn't in the home"
            return self._later(500, _PROBLEM)
        if link.downloaded_at is None and visit.request.method == "GET":
            try:
                await self._opening.note_download(visit.token_hash, visit.now)
            except Busy as busy:  # no reason to keep the file from a patient
                visit.told.fault = str(busy)
        return FileResponse(
            path,
            headers=dict(FILE_HEADERS),
            media_type=file.media_type,
            filename=file.name,
        )

    # The date of birth -------------------------------------------------------------------------------------------

    async def _take(self, visit: _Visit, link: Link) -> Response:
        posted = await self._form(visit)
        if posted is None:
            return self._ask_for_date(visit, link, {}, NotADate(_TOO_LONG, _PARTS), 403)
        today = visit.now.astimezone(self._sender(link).zone).date()
        born = typed_date(posted["day"], posted["month"], posted["year"], today)
        if isinstance(born, NotADate):
            return self._ask_for_date(visit, link, posted, born, 422)
        tried = await self._opening.try_date(visit.token_hash, born, visit.address, visit.now)
        if tried.result == "right":
            return self._let_in(visit)
        if tried.result == "wrong":
            said = f"The date of birth does not match. You can try {tried.left} more {'time' if tried.left == 1 else 'times'}"
            return self._ask_for_date(visit, link, posted, NotADate(said, _PARTS), 422)
        if tried.result == "limited":
            return self._later(429, "Too many wrong dates of birth were entered", "an hour", 3_600)
        return self._locked(link) if tried.result == "locked" else self._gone()

    async def _form(self, visit: _Visit) -> dict[str, str] | None:
        """What was typed; ``None`` for a form that we didn't show for this link, or too long ago."""
        limits = self._of.limits
        bodies.refuse_encoded(visit.request)
        body = await bodies.read(visit.request, limits.body_bytes, limits.seconds)
        given = parse_qs(body.decode("utf-8", "replace"), keep_blank_values=True, max_num_fields=None)
        posted = {name: given.get(name, [""])[-1][:40] for name in _PARTS}
        signed = given.get("form", [""])[-1]
        return posted if self._signer.holds(signed, "form", visit.token_hash, visit.now) else None

    def _ask_for_date(
        self,
        visit: _Visit,
        link: Link,
        typed: Mapping[str, str] | None = None,
        wrong: NotADate | None = None,
        status: int = 200,
    ) -> Response:
        content = self._views.render(
            "date_of_birth",
            sender=self._sender(link),
            token=visit.token,
            form=self._signer.sign("form", visit.token_hash, visit.now),
            typed=typed or {},
            error=wrong.says if wrong else None,
            wrong_parts=wrong.parts if wrong else (),
        )
        return page(content, status)

    def _let_in(self, visit: _Visit) -> Response:
        answer = see_other(f"/{visit.token}")
        answer.set_cookie(
            COOKIE,
            self._signer.sign("session", visit.token_hash, visit.now),
            max_age=int(SESSION.total_seconds()),
            path="/",
            secure=True,
            httponly=True,
            samesite="strict",
        )
        return answer


_Show = Callable[[_Visit, Link], Awaitable[Response]]


class _Endpoint:
    """An ASGI app, so that every method comes here: Starlette would answer those it doesn't know by itself."""

    def __init__(
        self,
        answer: Callable[[_Visit, _Show], Awaitable[Response]],
        visit: Callable[[Request], _Visit],
        methods: Mapping[str, _Show],
    ) -> None:
        self._answer = answer
        self._visit = visit
        self._methods = methods

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        show = self._methods.get(request.method)
        if show is None:
            raise HTTPException(405, headers={"Allow": ", ".join(self._methods)})
        response = await self._answer(self._visit(request), show)
        await response(scope, receive, send)


def _attachment_of(link: Link) -> Attachment | None:
    """The file that came with the link's own batch: no other can be reached by it."""
    known: dict[str, Any] | None = json.loads(link.spec).get("attachment")
    return Attachment(**known) if known else None


async def _robots(_: Request) -> Response:
    return Response("User-agent: *\nDisallow: /\n", headers=dict(HEADERS), media_type="text/plain")


async def _no_icon(_: Request) -> Response:
    return Response(status_code=204, headers=dict(HEADERS))
