"""A patient's way: the address in the message, the date of birth, what was sent (SPEC 2.12).

``/{token}`` asks for the date of birth, or shows what the link opens to a browser that has given it in the last half
hour; what is below that address is the affair of the link's kind (``kinds``). Whatever isn't a link that opens (never
made, over, revoked) is answered by one and the same page, after the same question to the ledger.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from batch_pipeline.gateway.logs import TOLD, Told, where
from batch_pipeline.gateway.pages.answers import HEADERS, page, see_other, style_sheet
from batch_pipeline.gateway.pages.callers import caller_of
from batch_pipeline.gateway.pages.kinds import KINDS
from batch_pipeline.gateway.pages.opening import Busy, Opening
from batch_pipeline.gateway.pages.signing import Signer
from batch_pipeline.gateway.pages.throttle import Throttle
from batch_pipeline.gateway.pages.views import Views, load_css
from batch_pipeline.gateway.pages.visits import PagesOf, Show, Site, Visit
from batch_pipeline.ledger.engine import Ledger
from batch_pipeline.ledger.links import Link
from batch_pipeline.rules.links import NotADate, hash_of, typed_date

_PARTS = ("day", "month", "year")
_LONGEST_PART = 40
_NOT_WHOLE = "It is too long, or took too long to reach us. Please try again."
_TOO_LONG = "The page was open for too long. Enter your date of birth again"


class Pages:
    """The patients' pages over a ledger."""

    def __init__(self, ledger: Ledger, of: PagesOf, clock: Callable[[], datetime]) -> None:
        self._of = of
        self._clock = clock
        opening = Opening(ledger, of.keys, of.hashed, seconds=of.limits.seconds)
        self._site = Site(of, Views(load_css()), Signer(of.keys.sessions), opening)
        self._by_address = Throttle(of.limits.requests_by_address, of.steady)
        self._by_link = Throttle(of.limits.requests_of_link, of.steady)

    def routes(self) -> Sequence[Route]:
        """Behind all the gateway's others: a token may be any word."""
        first: Mapping[str, Show] = {"GET": _open, "HEAD": _open, "POST": _take_date}
        below: Mapping[str, Show] = {"GET": _show, "HEAD": _show, "POST": _show}
        return [
            Route("/robots.txt", _robots),
            Route("/favicon.ico", _no_icon),
            Route("/assets/{name}", self._asset),
            Route("/{token}", _Endpoint(self._answer, self._visit, first)),
            Route("/{token}/{place:path}", _Endpoint(self._answer, self._visit, below)),
        ]

    async def _asset(self, request: Request) -> Response:
        views = self._site.views
        if f"/assets/{request.path_params['name']}" != views.css_path:
            return page(views.render("gone"), 404)
        return style_sheet(views.css)

    def _visit(self, request: Request) -> Visit:
        token = request.path_params["token"]
        told: Told = request.scope[TOLD]
        told.event = "page"
        return Visit(
            self._site,
            request,
            token,
            hash_of(token),
            request.path_params.get("place", ""),
            caller_of(request, self._of.proxies),
            self._clock(),
            told,
        )

    async def _answer(self, visit: Visit, show: Show) -> Response:
        """What ``show`` answers for a link that is open; for all others what they are."""
        try:
            if not (self._by_address.lets(visit.address) and self._by_link.lets(visit.token_hash)):
                return visit.later(429, "Too many pages were asked for at once")
            link = await self._site.opening.find(visit.token_hash)
            standing = "gone" if link is None else link.standing(visit.now)
            if link is None or standing == "gone":
                return visit.gone()
            visit.told.workspace = link.workspace
            return visit.locked(link) if standing == "locked" else await show(visit, link)
        except Busy as busy:
            visit.told.fault = str(busy)
            return visit.later(503)
        except HTTPException as refusal:
            return visit.not_saved(_NOT_WHOLE, refusal.status_code, refusal.headers or {})
        except ClientDisconnect:
            raise
        except Exception as error:  # noqa: BLE001 - a patient is told in words that they can read
            visit.told.fault = where(error)
            return visit.later(500)


# What a link opens ---------------------------------------------------------------------------------------------------


async def _open(visit: Visit, link: Link) -> Response:
    return await _show(visit, link) if visit.is_in_session else _ask_for_date(visit, link)


async def _show(visit: Visit, link: Link) -> Response:
    """A page of the link's kind, to a browser that gave the date of birth."""
    kind = KINDS.get(link.kind)
    method = "GET" if visit.request.method == "HEAD" else visit.request.method
    name = visit.place.partition("/")[0]
    methods = {} if kind is None else kind.pages.get(name, {})
    outlives = kind is not None and method == "POST" and name in kind.outlives_session
    if not (visit.is_in_session or outlives):
        return see_other(f"/{visit.token}")
    if not methods:
        return visit.gone()
    show = methods.get(method)
    if show is None and method == "GET":  # a phone that was put away opens a page again to which a form had led
        return see_other(f"/{visit.token}")
    if show is None:
        raise HTTPException(405, headers={"Allow": ", ".join(methods)})
    return await show(visit, link)


# The date of birth ---------------------------------------------------------------------------------------------------


async def _take_date(visit: Visit, link: Link) -> Response:
    fields, genuine = await visit.posted("form", visit.site.of.limits.body_bytes)
    if not genuine:
        return _ask_for_date(visit, link, {}, NotADate(_TOO_LONG, _PARTS), 403)
    typed = {name: fields.get(name, "")[:_LONGEST_PART] for name in _PARTS}
    today = visit.now.astimezone(visit.sender(link).zone).date()
    born = typed_date(typed["day"], typed["month"], typed["year"], today)
    if isinstance(born, NotADate):
        return _ask_for_date(visit, link, typed, born, 422)
    tried = await visit.site.opening.try_date(visit.token_hash, born, visit.address, visit.now)
    if tried.result == "right":
        return visit.keep_session(see_other(f"/{visit.token}"))
    if tried.result == "wrong":
        said = (
            f"The date of birth does not match. You can try {tried.left} more {'time' if tried.left == 1 else 'times'}"
        )
        return _ask_for_date(visit, link, typed, NotADate(said, _PARTS), 422)
    if tried.result == "limited":
        return visit.later(429, "Too many wrong dates of birth were entered", "an hour", 3_600)
    return visit.locked(link) if tried.result == "locked" else visit.gone()


def _ask_for_date(
    visit: Visit,
    link: Link,
    typed: Mapping[str, str] | None = None,
    wrong: NotADate | None = None,
    status: int = 200,
) -> Response:
    content = visit.site.views.render(
        "date_of_birth",
        sender=visit.sender(link),
        token=visit.token,
        form=visit.signed("form"),
        typed=typed or {},
        error=wrong.says if wrong else None,
        wrong_parts=wrong.parts if wrong else (),
    )
    return page(content, status)


class _Endpoint:
    """An ASGI app, so that every method comes here: Starlette would answer those it doesn't know by itself."""

    def __init__(
        self,
        answer: Callable[[Visit, Show], Awaitable[Response]],
        visit: Callable[[Request], Visit],
        methods: Mapping[str, Show],
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


async def _robots(_: Request) -> Response:
    return Response("User-agent: *\nDisallow: /\n", headers=dict(HEADERS), media_type="text/plain")


async def _no_icon(_: Request) -> Response:
    return Response(status_code=204, headers=dict(HEADERS))
