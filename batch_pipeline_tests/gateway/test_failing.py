"""When the ledger can't be written or asked: 503, 429, and nothing acknowledged that isn't stored."""

import asyncio
import sqlite3
import time
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager

import httpx
import pytest

from batch_pipeline_tests.gateway.serving import BEARER, GOVUK, NHS, Gateway, govuk_body, signed, status_body, stored
from benchmarks.gateway import callback, post_until_taken

BODY = status_body("flu:1:primary")


@contextmanager
def database(gateway: Gateway) -> Generator[sqlite3.Connection]:
    path = gateway.folder / "ledger.sqlite"
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        yield connection


@contextmanager
def locked(gateway: Gateway) -> Generator[None]:
    """Another process is writing."""
    with database(gateway) as connection:
        connection.execute("BEGIN IMMEDIATE")
        yield


@contextmanager
def failing(gateway: Gateway, message: str = "no room 9990000018") -> Generator[None]:
    with database(gateway) as connection:
        connection.execute(
            f"CREATE TRIGGER fails BEFORE INSERT ON receipts BEGIN SELECT RAISE(ABORT, '{message}'); END"
        )
        try:
            yield
        finally:
            connection.execute("DROP TRIGGER fails")


def test_a_ledger_that_fails_gives_503_and_nothing_is_stored(gateway: Gateway, client: httpx.Client) -> None:
    with failing(gateway):
        answer = client.post(NHS, content=BODY, headers=signed(BODY))
        assert (answer.status_code, answer.headers["retry-after"], list(answer.json())) == (503, "30", ["error"])
        assert stored(gateway.ledger) == []
    assert client.post(NHS, content=BODY, headers=signed(BODY)).status_code == 202
    assert gateway.log(1)[0]["fault"] == "IntegrityError"
    assert "no room" not in gateway.log_path.read_text()


def test_a_busy_ledger_gives_503_in_time_and_takes_the_repeat(gateway: Gateway, client: httpx.Client) -> None:
    with locked(gateway):
        answer = client.post(NHS, content=BODY, headers=signed(BODY))
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "30")
        assert client.get("/healthz").status_code == 200
        assert client.get("/readyz").status_code == 200  # it can be read
        assert stored(gateway.ledger) == []
    assert client.post(NHS, content=BODY, headers=signed(BODY)).status_code == 202
    assert len(stored(gateway.ledger)) == 1


def test_a_ledger_busy_for_short_is_waited_for(gateway: Gateway, client: httpx.Client) -> None:
    with ThreadPoolExecutor(1) as another:
        with locked(gateway):
            answer = another.submit(client.post, NHS, content=BODY, headers=signed(BODY))
            with pytest.raises(TimeoutError):
                answer.result(0.2)
        assert answer.result().status_code == 202


def test_when_too_much_waits_more_is_told_to_come_later(gateway: Gateway, client: httpx.Client) -> None:
    def post(number: int) -> httpx.Response:
        body = status_body(*(f"flu:{number}.{each}:primary" for each in range(600)))
        return client.post(NHS, content=body, headers=signed(body))

    with ThreadPoolExecutor(10) as callers:
        with locked(gateway):
            answers = list(callers.map(post, range(10)))
        # One is being written, one waits: the queue of 1,000 has no room for a third.
        assert sorted(answer.status_code for answer in answers) == [429] * 8 + [503] * 2
        assert {answer.headers["retry-after"] for answer in answers if answer.status_code == 429} == {"5"}
        give_up = time.monotonic() + 60
        while post(0).status_code == 429:  # until what waits is stored
            assert time.monotonic() < give_up
            time.sleep(0.01)
        assert [answer.status_code for answer in map(post, range(10))] == [202] * 10
    assert len(stored(gateway.ledger)) == 6_000


def test_what_was_not_acknowledged_in_a_failure_is_stored_by_its_repeats(gateway: Gateway) -> None:
    calls = [callback(f"flu:{line}:primary") for line in range(200)]

    async def post_through_a_failure() -> None:
        with failing(gateway):
            posting = asyncio.create_task(post_until_taken(gateway.port, calls, 50))
            await asyncio.sleep(0.3)
            assert stored(gateway.ledger) == []
        await posting

    asyncio.run(post_through_a_failure())
    assert len(stored(gateway.ledger)) == 200


@pytest.mark.parametrize(
    ("harm", "mend"),
    [
        ("UPDATE alembic_version SET version_num = '0000'", "UPDATE alembic_version SET version_num = ?"),
        ("ALTER TABLE alembic_version RENAME TO gone", "ALTER TABLE gone RENAME TO alembic_version"),
    ],
    ids=["another version", "no ledger any more"],
)
def test_it_is_not_ready_without_its_ledger(gateway: Gateway, client: httpx.Client, harm: str, mend: str) -> None:
    assert client.get("/readyz").json() == {"status": "ready"}
    with database(gateway) as connection:
        (head,) = connection.execute("SELECT version_num FROM alembic_version").fetchone()
        connection.execute(harm)
        try:
            answer = client.get("/readyz")
            assert (answer.status_code, answer.headers["retry-after"], list(answer.json())) == (503, "5", ["error"])
            assert client.get("/healthz").json() == {"status": "alive"}
        finally:
            connection.execute(mend, (head,) if "?" in mend else ())
    assert client.get("/readyz").status_code == 200


def test_a_fault_of_ours_is_a_500_and_stores_nothing(gateway: Gateway, client: httpx.Client) -> None:
    answer = client.post(GOVUK, content=govuk_body("a fault of ours", to="9990000018"), headers=BEARER)
    assert (answer.status_code, list(answer.json())) == (500, ["error"])
    assert stored(gateway.ledger) == []
    (line,) = gateway.log(1)
    assert line["fault"].startswith("RuntimeError at serving.py:")
