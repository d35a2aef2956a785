"""The demonstration's patients: some open their links, at made-up times, and fill in the gateway's own pages."""

import asyncio
import io
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from html.parser import HTMLParser
from typing import TypeAlias

import httpx
import sqlalchemy as sa
from typing_extensions import override

from batch_pipeline.errors import Refused
from batch_pipeline.gateway.app import make_app
from batch_pipeline.gateway.logs import make_log
from batch_pipeline.gateway.server import pages_of
from batch_pipeline.house import House
from batch_pipeline.ledger.tables import attempts, bookings, responses
from batch_pipeline.planning.duck import scan
from batch_pipeline.rules.links import token_of

Deed: TypeAlias = Callable[["Browser"], Awaitable[str]]
"""What a patient does past the date of birth; gives a sentence about it."""

_DAY = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Visit:
    """One patient at the pages, at one time."""

    at: datetime
    patient: int
    """Which of the batch's patients, by the order of their lines."""
    does: Deed


@dataclass
class Patients:
    """The patients of a batch whose messages carry links."""

    house: House
    batch: str
    _now: datetime = field(init=False)

    def __post_init__(self) -> None:
        app = make_app(
            self.house.ledger, {}, lambda: self._now, log=make_log(io.StringIO()), pages=pages_of(self.house)
        )
        self._transport = httpx.ASGITransport(app)
        links = self.house.submitted(self.batch).workspace.links
        if links is None:
            raise Refused(f"{self.batch}: its workspace doesn't say where links lead")
        self._site = links.base_url

    @property
    def have_been_here(self) -> bool:
        """Whether they did all of this in an earlier demonstration."""
        with self.house.ledger.read() as connection:
            return any(
                connection.execute(sa.select(table.c.line).where(table.c.batch == self.batch).limit(1)).first()
                for table in (responses, bookings)
            )

    def come(self, visit: Visit) -> str:
        """Lets a patient do what is to be done; gives a sentence that names the line alone."""
        self._now = visit.at
        line, token, born = self._patient(visit.patient)
        return f"The patient on line {line} {asyncio.run(self._visit(token, born, visit.does))}"

    async def _visit(self, token: str, born: date, does: Deed) -> str:
        async with httpx.AsyncClient(
            transport=self._transport, base_url=self._site, follow_redirects=True, timeout=60
        ) as client:
            browser = Browser(client, token)
            await browser.open()
            await browser.submit(day=str(born.day), month=str(born.month), year=str(born.year))
            return await does(browser)

    def _patient(self, number: int) -> tuple[int, str, date]:
        query = (
            sa.select(attempts.c.line, attempts.c.patient)
            .where(attempts.c.batch == self.batch, attempts.c.step == "primary", attempts.c.begun_at.is_not(None))
            .order_by(attempts.c.line)
            .offset(number)
            .limit(1)
        )
        with self.house.ledger.read() as connection:
            line, patient = connection.execute(query).one()
        patients = scan(self.house.table("patients", self.batch))
        with self.house.duck() as con:
            [(born,)] = con.sql(f"SELECT date_of_birth FROM {patients} WHERE line = {line}").fetchall()
        return line, token_of(self.house.link_keys, self.batch, patient), born


@dataclass
class Browser:
    """One without JavaScript: it shows a page, and posts its form."""

    client: httpx.AsyncClient
    token: str
    page: str = ""

    async def open(self, place: str = "") -> str:
        """A page below the link's address."""
        self.page = (await self.client.get(f"/{self.token}{place and '/'}{place}")).text
        return self.page

    async def enter(self, place: str) -> str:
        """The first of the page's links that lead below that place."""
        below = f"/{self.token}/{place}/"
        self.page = (await self.client.get(next(each for each in read(self.page).links if each.startswith(below)))).text
        return self.page

    async def submit(self, **typed: str) -> str:
        """Posts the page's form with what was typed over what it held."""
        form = read(self.page)
        self.page = (await self.client.post(form.action, data={**form.fields, **typed})).text
        return self.page


class _Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.action = ""
        self.fields: dict[str, str] = {}
        self.options: dict[str, list[str]] = {}
        """The values of radio buttons, by their name."""
        self.links: list[str] = []

    @override
    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        if tag == "form":
            self.action = given["action"]
        elif tag == "a":
            self.links.append(given.get("href", ""))
        elif tag == "input" and "name" in given:
            self._input(given)

    def _input(self, given: Mapping[str, str]) -> None:
        if given.get("type") in ("radio", "checkbox"):
            self.options.setdefault(given["name"], []).append(given["value"])
            if "checked" not in given:
                return
        self.fields[given["name"]] = given.get("value", "")


def read(page: str) -> _Page:
    """What a page offers to be done."""
    found = _Page()
    found.feed(page)
    return found


# What they do --------------------------------------------------------------------------------------------------------


def blood_pressure(sent: datetime) -> list[Visit]:
    """A week of one patient; another's reading that can't wait; a third who stops after two days."""
    evening = sent + timedelta(hours=11)
    readings = ((142, 88), (146, 92), (138, 86), (141, 90))
    week = [Visit(evening + day * _DAY, 0, _fill(day + 1, readings)) for day in range(7)]
    return [
        Visit(evening, 0, _download),
        *week,
        Visit(week[-1].at + timedelta(minutes=5), 0, _send),
        Visit(evening + timedelta(hours=1), 1, _fill(1, ((152, 96), (186, 112)))),
        *(Visit(evening + timedelta(hours=2) + day * _DAY, 2, _fill(day + 1, readings[:2])) for day in range(2)),
    ]


def booking(sent: datetime) -> list[Visit]:
    """Three book, of whom one changes and one cancels; one wants no appointment."""
    deeds = ((0, _book(0)), (1, _book(0)), (2, _book(1)), (0, _change), (2, _cancel), (3, _decline))
    return [
        Visit(sent + timedelta(hours=1, minutes=10 * number), patient, does)
        for number, (patient, does) in enumerate(deeds)
    ]


def _fill(day: int, readings: Sequence[tuple[int, int]]) -> Deed:
    """Readings of a day, in their order: two of the morning, two of the evening."""
    places = [f"day-{day}.{time}.{number}" for time in ("morning", "evening") for number in (1, 2)]

    async def fill(browser: Browser) -> str:
        typed = dict[str, str]()
        for place, (systolic, diastolic) in zip(places, readings, strict=False):
            typed |= {f"{place}.systolic": str(systolic), f"{place}.diastolic": str(diastolic)}
        await browser.open(f"questions/{day}")
        page = await browser.submit(**typed)
        advice = ", and is told at once what to do" if "very high" in page else ""
        return f"gives {len(readings)} readings of day {day}{advice}"

    return fill


async def _download(browser: Browser) -> str:
    size = len((await browser.client.get(f"/{browser.token}/attachment")).content)
    return f"downloads the attachment ({size:,} bytes)"


async def _send(browser: Browser) -> str:
    await browser.open("check")
    await browser.submit()
    return "looks the answers over and sends them"


def _book(number: int) -> Deed:
    """Books the so-and-so-many-th time that is free on the first day."""

    async def book(browser: Browser) -> str:
        await _choose(browser, number)
        return "books a slot"

    return book


async def _choose(browser: Browser, number: int) -> None:
    await browser.open("days")
    await browser.enter("times")
    await browser.submit(slot=read(browser.page).options["slot"][number])
    await browser.submit()


async def _change(browser: Browser) -> str:
    await _choose(browser, 2)
    return "changes to another slot"


async def _cancel(browser: Browser) -> str:
    await browser.open("cancel")
    await browser.submit()
    return "cancels the booking"


async def _decline(browser: Browser) -> str:
    await browser.open("decline")
    await browser.submit()
    return "wants no appointment"
