"""The pages' server killed again and again while patients answer and book: what was answered with a redirect is kept."""

import json
import random
import re
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import httpx
import pytest

from batch_pipeline.gateway.pages.signing import COOKIE, Signer
from batch_pipeline.ledger import alerts, responses
from batch_pipeline.rules.links import hash_of
from batch_pipeline.rules.slots import Slot
from batch_pipeline_tests.gateway.patients import Server, asking_batch, fields_of, hidden, token, words
from batch_pipeline_tests.gateway.serving import free_port
from batch_pipeline_tests.gateway.test_booking import invite, take_in
from batch_pipeline_tests.gateway.test_questionnaires import numbers
from batch_pipeline_tests.ledger.given import BATCH, NOW, open_ledger
from batch_pipeline_tests.ledger.test_bookings import booked, sound
from batch_pipeline_tests.ledger.test_links import KEYS
from batch_pipeline_tests.questionnaires.given import dated

pytestmark = pytest.mark.slow
PATIENTS, KILLS, SECONDS = 12, 6, 200
PLACES = [(day, place) for day in range(1, 5) for place in ("m1", "m2", "e1", "e2")]


class Patient:
    """Gives one reading after the other, as a person does whose page doesn't load: again until it is answered."""

    def __init__(self, server: Server, line: int, over: threading.Event) -> None:
        self._client = httpx.Client(base_url=server.site, timeout=5)
        self._token, self._over = token(line), over
        self.line = line
        self.answered: dict[str, int] = {}
        """What was answered with a redirect."""

    def give_all(self) -> None:
        with self._client:
            for n, (day, place) in enumerate(PLACES):
                typed = numbers(day, **{place: (190 if n == 0 else 120 + n, 80)})
                posted = typed | dated(f"day-{day}.date", NOW.date() - timedelta(days=4 - day))
                self._until(lambda day=day, posted=posted: self._post(day, posted))
                self.answered |= {name: int(value) for name, value in typed.items()}

    def _until(self, post: Callable[[], bool]) -> None:
        while not self._over.is_set():
            with suppress(httpx.TransportError):
                if post():
                    return
            time.sleep(0.02)
        raise AssertionError("it took too long")

    def _post(self, day: int, typed: dict[str, str]) -> bool:
        page = self._client.get(f"/{self._token}/questions/{day}", headers=self._session())
        if page.status_code == 303:
            self._enter()
            return False
        if page.status_code != 200:
            return False
        posted = self._client.post(
            f"/{self._token}/questions/{day}", data=fields_of(page) | typed, headers=self._session()
        )
        return posted.status_code == 303

    def _enter(self) -> None:
        form = hidden(self._client.get(f"/{self._token}"))
        born = {"day": "31", "month": "1", "year": "1980", "form": form}
        answer = self._client.post(f"/{self._token}", data=born)
        found = re.search(r"__Host-link=([^;]+)", answer.headers.get("set-cookie", ""))
        self._signed = found[1] if found else ""

    _signed = ""

    def _session(self) -> dict[str, str]:
        """The cookie is for https alone, which a client on loopback keeps to."""
        return {"Cookie": f"__Host-link={self._signed}"}


def test_what_was_answered_with_a_redirect_is_kept(tmp_path: Path) -> None:
    ledger = open_ledger(tmp_path)
    asking_batch(ledger, tmp_path, "bp_4_day", PATIENTS)
    server, over = Server(tmp_path, tmp_path, free_port()), threading.Event()
    server.start()
    chance = random.Random()
    patients = [Patient(server, line, over) for line in range(2, 2 + PATIENTS)]
    deadline = threading.Timer(SECONDS, over.set)
    deadline.start()
    with ThreadPoolExecutor(PATIENTS) as pool:
        filling = [pool.submit(patient.give_all) for patient in patients]
        try:
            for done in range(KILLS):
                while sum(len(each.answered) for each in patients) < 2 * PATIENTS * len(PLACES) * (done + 1) // (
                    KILLS + 2
                ):
                    assert not any(each.done() for each in filling), "it is over, or somebody gave up"
                    time.sleep(0.005)
                time.sleep(chance.uniform(0, 0.02))
                server.kill()
                server.start()
            for each in filling:
                each.result(120)
        finally:
            over.set()
            deadline.cancel()
            server.stop()
    with ledger.read() as connection:
        kept = {each.line: json.loads(each.answers or "{}") for each in responses.of_batch(connection, BATCH)}
        raised = [(each.line, each.finding) for each in alerts.of_batch(connection, BATCH)]
    ledger.close()
    for patient in patients:
        assert len(patient.answered) == 2 * len(PLACES)
        assert patient.answered.items() <= kept[patient.line].items()
    assert raised == [(patient.line, "very_high:day-1.morning.1") for patient in patients]


# Booking -------------------------------------------------------------------------------------------------------------

BOOKERS, PLACES_IN_ALL, CHOICES = 16, 12, 12
SIX_SLOTS = [
    Slot(f"S{n}", NOW + timedelta(days=1, minutes=10 * n + 5), 10, None, None, PLACES_IN_ALL // 6) for n in range(6)
]
BOOKED, CANCELLED = "Your appointment is booked", "Your appointment is cancelled"


class Booker:
    """Books, changes and cancels, and looks after each time whether the page says what was answered."""

    def __init__(self, server: Server, line: int, over: threading.Event) -> None:
        self._client = httpx.Client(base_url=server.site, timeout=5)
        self._token, self._over = token(line), over
        signer, hashed = Signer(KEYS.sessions), hash_of(token(line))
        session = signer.sign("session", hashed, NOW + timedelta(hours=1))
        self._client.headers["Cookie"] = f"{COOKIE}={session}"
        self._chance = random.Random(line)
        self.answered = 0
        """Choices that were answered with a redirect."""
        self.says = ""
        """What the page says in the end."""

    def choose_all(self) -> None:
        with self._client:
            self.says = self._start()
            while self.answered < CHOICES:
                wanted = self._choose()
                self.says = self._start()
                if wanted is not None:
                    self.answered += 1
                    assert wanted in self.says.lower(), self.says

    def _start(self) -> str:
        """The start page, asked for until it is there."""
        while not self._over.is_set():
            with suppress(httpx.TransportError):
                page = self._client.get(f"/{self._token}")
                if page.status_code == 200:
                    return words(page)
            time.sleep(0.02)
        raise AssertionError("it took too long")

    def _choose(self) -> str | None:
        """One choice; what the page has to say where it was answered, ``None`` where nobody knows, or it was taken."""
        with suppress(httpx.TransportError):
            if BOOKED in self.says and self._chance.random() < 0.4:
                asked = self._client.get(f"/{self._token}/cancel")
                return CANCELLED.lower() if self._sent(asked, "cancel") else None
            slot = self._chance.randint(1, len(SIX_SLOTS))
            times = self._client.get(f"/{self._token}/times/{SIX_SLOTS[0].starts_at.date()}")
            asked = self._client.post(f"/{self._token}/confirm", data=self._fields(times) | {"slot": str(slot)})
            starts = SIX_SLOTS[slot - 1].starts_at.astimezone(ZoneInfo("Europe/London"))
            return f"Time {starts:%-I:%M%p}".lower() if self._sent(asked, "book") else None
        return None

    def _sent(self, asked: httpx.Response, place: str) -> bool:
        if asked.status_code != 200:
            return False
        return self._client.post(f"/{self._token}/{place}", data=self._fields(asked)).status_code == 303

    @staticmethod
    def _fields(page: httpx.Response) -> dict[str, str]:
        return dict(re.findall(r'<input type="hidden" name="([^"]+)" value="([^"]*)"', page.text))


def test_what_was_booked_stays_booked_and_no_slot_holds_more_than_it_can(tmp_path: Path) -> None:
    ledger = open_ledger(tmp_path)
    invite(ledger, BOOKERS)
    take_in(ledger, *SIX_SLOTS)
    server, over = Server(tmp_path, tmp_path, free_port()), threading.Event()
    server.start()
    chance = random.Random()
    patients = [Booker(server, line, over) for line in range(2, 2 + BOOKERS)]
    deadline = threading.Timer(SECONDS, over.set)
    deadline.start()
    with ThreadPoolExecutor(BOOKERS) as pool:
        choosing = [pool.submit(patient.choose_all) for patient in patients]
        try:
            for done in range(KILLS):
                while sum(each.answered for each in patients) < BOOKERS * CHOICES * (done + 1) // (KILLS + 2):
                    assert not all(each.done() for each in choosing), "it is over, or they gave up"
                    time.sleep(0.005)
                time.sleep(chance.uniform(0, 0.02))
                server.kill()
                sound(ledger)
                server.start()
            for each in choosing:
                each.result(120)
        finally:
            over.set()
            deadline.cancel()
            server.stop()
    sound(ledger)
    held = booked(ledger)
    ledger.close()
    assert all(count <= PLACES_IN_ALL // 6 for count in held.values())
    assert sum(held.values()) == sum(BOOKED in each.says for each in patients)
