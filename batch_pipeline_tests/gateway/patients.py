"""A batch with an attachment, sent, and a patient's browser before the gateway's pages."""

import asyncio
import hashlib
import io
import json
import multiprocessing
import os
import re
import signal
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, TextIO
from zoneinfo import ZoneInfo

import httpx
from starlette.types import ASGIApp

from batch_pipeline.gateway.app import make_app
from batch_pipeline.gateway.logs import make_log
from batch_pipeline.gateway.pages.callers import proxies_of
from batch_pipeline.gateway.pages.views import Sender
from batch_pipeline.gateway.pages.visits import PageLimits, PagesOf
from batch_pipeline.gateway.server import run
from batch_pipeline.ledger import batches, links, outbox
from batch_pipeline.ledger.engine import Ledger
from batch_pipeline.questionnaires.form import Form
from batch_pipeline.questionnaires.library import kept_form
from batch_pipeline.rules.links import token_of
from batch_pipeline_tests.gateway.serving import free_port
from batch_pipeline_tests.ledger.given import (
    BATCH,
    HASHER,
    NOW,
    PLAN,
    approve,
    begin,
    lines,
    open_ledger,
    patient,
    rows,
    submission,
)
from batch_pipeline_tests.ledger.test_links import BORN, KEYS
from batch_pipeline_tests.ledger.test_links import rows as birth_rows
from batch_pipeline_tests.processes import CONTEXT
from batch_pipeline_tests.questionnaires.given import SHIPPED, text_of

SITE = "https://msg.example.org"
PDF = b"%PDF-1.7 a leaflet about flu"


def attachment(content: bytes = PDF, name: str = "Flu leaflet.pdf") -> dict[str, Any]:
    sha256 = hashlib.sha256(content).hexdigest()
    return {"name": name, "sha256": sha256, "media_type": "application/pdf", "label": "PDF", "size": len(content)}


def sent_batch(ledger: Ledger, kept: Path, count: int = 3, batch: str = BATCH, content: bytes = PDF) -> None:
    """A batch whose messages went, each with a link to its attachment."""
    file = attachment(content)
    (kept / file["sha256"]).write_bytes(content)
    with ledger.write() as connection:
        spec = batches.spec_json({"batch": batch, "attachment": file})
        batches.register(connection, submission(batch, spec=spec), NOW)
        batches.record_plan(connection, batch, PLAN, {}, NOW)
        batches.mark_reviewed(connection, batch, PLAN, NOW)
        batches.approve(connection, batch, "Dr Grey", PLAN, NOW)
    recipients = lines(count)
    links.write(ledger, batch, "attachment", KEYS, birth_rows(*(each.line for each in recipients)), NOW)
    outbox.write(ledger, batch, PLAN, rows(recipients), NOW)
    begin(ledger, *(each.line for each in recipients), batch=batch)


def asking_batch(
    ledger: Ledger, kept: Path, questionnaire: str = "bp_7_day", count: int = 3, *, attached: bool = False
) -> None:
    """A batch whose messages went, each with a link to a questionnaire: a shipped one, or the text of another.

    ``attached``: a file comes with it.
    """
    text = text_of(questionnaire) if questionnaire in SHIPPED else questionnaire
    form_id = questionnaire if questionnaire in SHIPPED else "mine"
    sha256 = hashlib.sha256(text.encode()).hexdigest()
    (kept / sha256).write_text(text, encoding="utf-8")
    asks = {"id": form_id, "version": "1", "sha256": sha256}
    file = attachment()
    (kept / file["sha256"]).write_bytes(PDF)
    spec = batches.spec_json({"batch": BATCH, "questionnaire": asks, **({"attachment": file} if attached else {})})
    approve(ledger, message_type="questionnaire", questionnaire=form_id, spec=spec)
    recipients = lines(count)
    links.write(ledger, BATCH, "questionnaire", KEYS, birth_rows(*(each.line for each in recipients)), NOW)
    outbox.write(ledger, BATCH, PLAN, rows(recipients), NOW)
    begin(ledger, *(each.line for each in recipients))


@cache
def form_in(kept: Path, form_id: str) -> Form:
    return kept_form(kept.read_text("utf-8"), form_id)


@dataclass
class Clock:
    now: datetime = NOW + timedelta(hours=1)
    steady: float = 0

    def wait(self, span: timedelta) -> None:
        self.now += span
        self.steady += span.total_seconds()


class SharedClock(Clock):
    """Of a server in another process: a file beside its ledger says how many days it is ahead."""

    def __init__(self, folder: Path) -> None:
        self._ahead = folder / "days"

    @property
    def now(self) -> datetime:  # pyright: ignore[reportIncompatibleVariableOverride]
        days = int(self._ahead.read_text()) if self._ahead.exists() else 0
        return NOW + timedelta(days=days, hours=1)

    @property
    def steady(self) -> float:  # pyright: ignore[reportIncompatibleVariableOverride]
        return time.monotonic() + 60 * (self.now - NOW).days


class Client:
    """Asks an app as a browser at an address does, cookies and all."""

    def __init__(self, app: ASGIApp, address: str) -> None:
        transport = httpx.ASGITransport(app, client=(address, 50_000))  # type: ignore[arg-type]
        self._client = httpx.AsyncClient(transport=transport, base_url=SITE)
        self.cookies = self._client.cookies
        self._loop = asyncio.new_event_loop()

    @property
    def headers(self) -> httpx.Headers:
        """Sent with each request."""
        return self._client.headers

    @headers.setter
    def headers(self, given: httpx.Headers) -> None:
        self._client.headers = given

    def __del__(self) -> None:
        self._loop.close()

    def request(self, method: str, place: str, **more: Any) -> httpx.Response:
        return self._loop.run_until_complete(self._client.request(method, place, **more))

    def get(self, place: str) -> httpx.Response:
        return self.request("GET", place)

    def post(self, place: str, data: dict[str, str]) -> httpx.Response:
        return self.request("POST", place, data=data)


@dataclass
class Desk:
    """The gateway over a ledger, with its log, and browsers before it."""

    ledger: Ledger
    kept: Path
    clock: Clock = field(default_factory=Clock)
    limits: PageLimits = field(default_factory=PageLimits)
    log: TextIO = field(default_factory=io.StringIO)
    organisation: str = "Riverside <Surgery>"

    def app(self) -> ASGIApp:
        pages = PagesOf(
            keys=KEYS,
            senders={"riverside": Sender(self.organisation, ZoneInfo("Europe/London"))},
            kept_attachment=lambda sha256: self.kept / sha256,
            hashed=HASHER.hash,
            kept_form=lambda sha256, form_id: form_in(self.kept / sha256, form_id),
            limits=self.limits,
            proxies=proxies_of(["198.51.100.1"]),
            steady=lambda: self.clock.steady,
        )
        return make_app(self.ledger, {}, lambda: self.clock.now, log=make_log(self.log), pages=pages)

    def browser(self, address: str = "192.0.2.7") -> "Browser":
        return Browser(Client(self.app(), address))

    def logged(self) -> list[dict[str, Any]]:
        assert isinstance(self.log, io.StringIO)
        return [json.loads(line) for line in self.log.getvalue().splitlines()]

    @property
    def said(self) -> str:
        """All that was logged, but for times and the random ids of requests: any digits may stand there."""
        by_chance = {"at", "milliseconds", "request_id"}
        return "\n".join(
            json.dumps({name: value for name, value in line.items() if name not in by_chance}) for line in self.logged()
        )


@dataclass
class Browser:
    """As a patient uses it: fills in the form that is shown."""

    client: Client

    def through(self, said: Sequence[str]) -> "Browser":
        """Behind a proxy that says so whom it asks for, a header line each."""
        self.client.headers = httpx.Headers([("x-forwarded-for", each) for each in said])
        return self

    def open(self, token: str) -> httpx.Response:
        return self.client.get(f"/{token}")

    def type_in(self, token: str, born: date | tuple[str, str, str] = BORN, **more: str) -> httpx.Response:
        """Opens the link and gives a date of birth; the answer to that, before any redirect."""
        form = hidden(self.open(token))
        parts = (str(born.day), str(born.month), str(born.year)) if isinstance(born, date) else born
        data = dict(zip(("day", "month", "year"), parts, strict=True)) | {"form": form} | more
        return self.client.post(f"/{token}", data=data)

    def enter(self, token: str) -> httpx.Response:
        """Past the date of birth; the page behind it."""
        assert self.type_in(token).status_code == 303
        return self.open(token)

    def fill(self, token: str, place: str, **typed: str | None) -> httpx.Response:
        """Opens a page, types into some of its fields (``None`` unticks), and posts all of it, as browsers do."""
        return self.post_form(f"/{token}/{place}", fields_of(self.client.get(f"/{token}/{place}")), typed)

    def post_form(self, place: str, fields: dict[str, str], typed: Mapping[str, str | None]) -> httpx.Response:
        """``fields``: what the form held when it was shown."""
        filled = {name: value for name, value in {**fields, **typed}.items() if value is not None}
        return self.client.post(place, data=filled)

    def download(self, token: str) -> httpx.Response:
        return self.client.get(f"/{token}/attachment")


def hidden(page: httpx.Response) -> str:
    """The form's own signature, empty where there is no form."""
    found = re.search(r'name="form" value="([^"]+)"', page.text)
    return found[1] if found else ""


class _Fields(HTMLParser):
    """What a browser would post of the form on a page, as it was shown."""

    def __init__(self) -> None:
        super().__init__()
        self.found: dict[str, str] = {}
        self._area: str | None = None

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        name = given.get("name") or ""
        if tag == "textarea":
            self._area = name
            self.found[name] = ""
        elif tag == "input" and (given.get("type") not in ("radio", "checkbox") or "checked" in given):
            self.found[name] = given.get("value") or ""

    def handle_data(self, data: str) -> None:
        if self._area is not None:
            self.found[self._area] += data

    def handle_endtag(self, tag: str) -> None:
        if tag == "textarea":
            self._area = None


def fields_of(page: httpx.Response) -> dict[str, str]:
    parser = _Fields()
    parser.feed(page.text)
    return parser.found


def words(page: httpx.Response) -> str:
    """What a person reads of a page."""
    main = page.text.split("<main", 1)[1].split("</main>", 1)[0]
    return " ".join(re.sub(r"<[^>]+>", " ", main.split(">", 1)[1]).split())


@contextmanager
def served(folder: Path, kept: Path, organisation: str = "Riverside <Surgery>") -> Generator[str]:
    """The pages over the ledger in a folder, on loopback, in a process of its own; gives their site."""
    server = Server(folder, kept, free_port(), organisation)
    server.start()
    try:
        yield server.site
    finally:
        server.stop()


@dataclass
class Server:
    """The pages in a process of their own, with its worker in a group of their own, so that both can be killed."""

    folder: Path
    kept: Path
    port: int
    organisation: str = "Riverside <Surgery>"

    @property
    def site(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        self._process = CONTEXT.Process(target=_serve, args=(self.folder, self.kept, self.port, self.organisation))
        self._process.start()
        _until_it_answers(self.port)

    def stop(self) -> None:
        self._process.terminate()
        self._process.join(20)
        self._process.kill()  # a busy machine may take longer, and its worker ends with it
        self._process.join()

    def kill(self) -> None:
        """As a power cut does it."""
        os.killpg(self._process.pid or 0, signal.SIGKILL)
        self._process.join()


def _until_it_answers(port: int) -> None:
    give_up = time.monotonic() + 60
    while time.monotonic() < give_up:
        with suppress(httpx.TransportError):
            httpx.get(f"http://127.0.0.1:{port}/healthz")
            return
        time.sleep(0.05)
    raise AssertionError("the gateway doesn't answer")


def _serve(folder: Path, kept: Path, port: int, organisation: str) -> None:
    os.setsid()
    multiprocessing.set_start_method("fork", force=True)  # as from a shell

    def app() -> ASGIApp:
        log = (folder / "gateway.log").open("a")
        clock = SharedClock(folder)
        return Desk(open_ledger(folder), kept, clock, log=log, organisation=organisation).app()

    run(app, "127.0.0.1", port)


def token(line: int = 2, batch: str = BATCH) -> str:
    return token_of(KEYS, batch, patient(line))
