"""The pages' server killed again and again while patients answer: what was answered with a redirect is kept."""

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

import httpx
import pytest

from batch_pipeline.ledger import alerts, responses
from batch_pipeline_tests.gateway.patients import Server, asking_batch, fields_of, hidden, token
from batch_pipeline_tests.gateway.serving import free_port
from batch_pipeline_tests.gateway.test_questionnaires import numbers
from batch_pipeline_tests.ledger.given import BATCH, NOW, open_ledger
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
