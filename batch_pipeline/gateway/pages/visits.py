"""A request for a link's page, and what all pages have at hand to answer it."""

from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from types import MappingProxyType
from typing import TypeAlias
from urllib.parse import parse_qsl
from zoneinfo import ZoneInfo

from starlette.requests import Request
from starlette.responses import Response

from batch_pipeline.clocks import seconds_since_boot
from batch_pipeline.gateway import bodies
from batch_pipeline.gateway.logs import Told
from batch_pipeline.gateway.pages.answers import page
from batch_pipeline.gateway.pages.callers import LOOPBACK
from batch_pipeline.gateway.pages.opening import Opening
from batch_pipeline.gateway.pages.signing import COOKIE, SESSION, Purpose, Signer
from batch_pipeline.gateway.pages.views import Sender, Views
from batch_pipeline.ledger.links import Link
from batch_pipeline.questionnaires.form import Form
from batch_pipeline.rules.links import LinkKeys

PROBLEM = "Sorry, there is a problem with this page"
_UNKNOWN_SENDER = Sender("the organisation that sent you the message", ZoneInfo("Europe/London"))


@dataclass(frozen=True, slots=True)
class PageLimits:
    """What one caller may ask of one process in a minute, and how long a page may wait for the ledger."""

    requests_by_address: int = 1_200
    """Behind the address of a mobile network there may be thousands of patients."""
    requests_of_link: int = 60
    seconds: float = 10
    body_bytes: int = 4_096
    """Of a date of birth."""
    answers_bytes: int = 262_144
    """Of a page of a questionnaire."""


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
    kept_form: Callable[[str, str], Form]
    """A batch's questionnaire, by its SHA-256 and id; asked for at each request, so it keeps what it has read."""
    limits: PageLimits = field(default_factory=PageLimits)
    proxies: Collection[str] = LOOPBACK
    """Who is believed about whom a request comes from."""
    steady: Callable[[], float] = seconds_since_boot


@dataclass(frozen=True, slots=True)
class Site:
    """What all pages have at hand."""

    of: PagesOf
    views: Views
    signer: Signer
    opening: Opening


@dataclass(frozen=True, slots=True)
class Visit:
    """A request for a link's page."""

    site: Site
    request: Request
    token: str
    token_hash: str
    place: str
    """What follows the token in the path; empty for the link's own address."""
    address: str
    now: datetime
    told: Told

    def sender(self, link: Link) -> Sender:
        """The organisation that sent the link."""
        return self.site.of.senders.get(link.workspace, _UNKNOWN_SENDER)

    @property
    def is_in_session(self) -> bool:
        """Whether this browser gave the date of birth a moment ago."""
        signed = self.request.cookies.get(COOKIE, "")
        return self.site.signer.holds(signed, "session", self.token_hash, self.now)

    def keep_session(self, answer: Response) -> Response:
        """The answer, with which the browser's session begins, or begins anew."""
        answer.set_cookie(
            COOKIE,
            self.signed("session"),
            max_age=int(SESSION.total_seconds()),
            path="/",
            secure=True,
            httponly=True,
            samesite="strict",
        )
        return answer

    def signed(self, purpose: Purpose) -> str:
        """What says of a session or a form that it is ours, and of this link."""
        return self.site.signer.sign(purpose, self.token_hash, self.now)

    async def posted(self, purpose: Purpose, most: int) -> tuple[dict[str, str], bool]:
        """The fields that were posted, and whether they are of a form that we showed for this link, not too long ago."""
        bodies.refuse_encoded(self.request)
        body = await bodies.read(self.request, most, self.site.of.limits.seconds)
        fields = dict(parse_qsl(body.decode("utf-8", "replace"), keep_blank_values=True))
        genuine = self.site.signer.holds(fields.pop("form", ""), purpose, self.token_hash, self.now)
        return fields, genuine

    def gone(self) -> Response:
        """The page of a link that opens nothing, and never said whether it did."""
        return page(self.site.views.render("gone"), 404)

    def not_saved(self, because: str, status: int = 403, headers: Mapping[str, str] = MappingProxyType({})) -> Response:
        """The page of something that was typed and couldn't be taken; nothing of what the link opens."""
        heading = "What you entered was not saved"
        content = self.site.views.render("problem", heading=heading, says=because, onward=f"/{self.token}")
        return page(content, status, headers)

    def locked(self, link: Link) -> Response:
        """The page of a link that a person has to unlock."""
        return page(self.site.views.render("locked", sender=self.sender(link)), 403)

    def later(self, status: int, heading: str = PROBLEM, when: str = "a few minutes", seconds: int = 60) -> Response:
        """The page of something that may go another time."""
        content = self.site.views.render("problem", heading=heading, says=f"Please try again in {when}.")
        return page(content, status, {"Retry-After": str(seconds)})


Show: TypeAlias = Callable[[Visit, Link], Awaitable[Response]]


@dataclass(frozen=True, slots=True)
class PageSet:
    """What links of one kind open, below the date of birth."""

    pages: Mapping[str, Mapping[str, Show]]
    """By the first word of what follows the token in the path (empty: the first page), and by method."""
    outlives_session: Collection[str] = ()
    """Those of which a form that we showed is taken after the session's end as well: what was typed isn't lost."""
