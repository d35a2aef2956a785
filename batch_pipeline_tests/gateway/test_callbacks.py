"""What is answered to a call, and what is stored of it: over real HTTP."""

import asyncio
import json
import random
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import httpx
import pytest

from batch_pipeline.ledger import unread
from batch_pipeline.sending.receipts import fold
from batch_pipeline_tests.gateway.serving import (
    API_KEY,
    BEARER,
    GOVUK,
    NHS,
    Gateway,
    Signed,
    govuk_body,
    signature,
    signed,
    status_body,
    stored,
)
from batch_pipeline_tests.ledger.given import BATCH, NOW, attempt_rows, begin, lines, open_ledger, queue
from benchmarks.gateway import callback, post_until_taken

BODY = status_body("flu:1:primary")
LIMIT = 1_000_000


def test_a_genuine_call_is_answered_202_when_it_is_stored(gateway: Gateway, client: httpx.Client) -> None:
    answer = client.post(NHS, content=BODY, headers=signed(BODY))
    assert (answer.status_code, answer.json()) == (202, {"receipts": 1})
    assert stored(gateway.ledger) == [("nhs_notify", "flu:1:primary")]


def test_a_call_may_hold_many_receipts(gateway: Gateway, client: httpx.Client) -> None:
    body = status_body(*(f"flu:{line}:primary" for line in range(100)))
    assert client.post(NHS, content=body, headers=signed(body)).json() == {"receipts": 100}
    assert len(stored(gateway.ledger)) == 100


def test_what_cannot_be_read_is_kept_once_and_the_rest_is_stored(gateway: Gateway, client: httpx.Client) -> None:
    """A refusal would bring the same again for two hours, and the good ones would be lost with it."""
    odd = {"type": "Odd", "attributes": {"nhsNumber": "9990000018"}}
    body = json.dumps({"data": [*json.loads(BODY)["data"], odd]}).encode()
    for _ in range(2):
        answer = client.post(NHS, content=body, headers=signed(body))
        assert (answer.status_code, answer.json()) == (202, {"receipts": 1})
    assert stored(gateway.ledger) == [("nhs_notify", "flu:1:primary")]
    with gateway.ledger.read() as connection:
        (kept,) = unread.kept(connection, "nhs_notify")
    assert json.loads(kept.item) == odd
    assert [line["unread"] for line in gateway.log(2)] == [1, 1]
    assert "9990000018" not in gateway.log_path.read_text()


def test_the_other_provider_s_calls_are_taken_by_their_token(gateway: Gateway, client: httpx.Client) -> None:
    assert client.post(GOVUK, content=govuk_body("flu:2:primary"), headers=BEARER).status_code == 202
    assert stored(gateway.ledger) == [("govuk_notify", "flu:2:primary")]


def test_a_genuine_call_that_says_nothing_about_a_message_is_taken(gateway: Gateway, client: httpx.Client) -> None:
    answer = client.post(GOVUK, content=govuk_body("flu:2:primary", status="sending"), headers=BEARER)
    assert (answer.status_code, answer.json()) == (202, {"receipts": 0})
    assert stored(gateway.ledger) == []


def test_the_largest_body_is_taken(gateway: Gateway, client: httpx.Client) -> None:
    body = BODY + b" " * (LIMIT - len(BODY))
    assert client.post(NHS, content=body, headers=signed(body)).status_code == 202
    assert len(stored(gateway.ledger)) == 1


# What is refused leaves nothing behind

SPACED = json.dumps(json.loads(BODY), indent=1).encode()
UNPAIRED = BODY.replace(b"flu:1:primary", rb"flu\ud8001")
REFUSED: list[tuple[str, str, str, dict[str, str], bytes, int]] = [
    ("no key", "POST", NHS, {}, BODY, 401),
    ("a wrong key", "POST", NHS, signed(BODY) | {"x-api-key": "a guess"}, BODY, 401),
    ("a key in other letters", "POST", NHS, signed(BODY) | {"x-api-key": API_KEY.upper()}, BODY, 401),
    ("no key, a large body", "POST", NHS, {}, b"x" * LIMIT, 401),
    ("no token", "POST", GOVUK, {}, govuk_body("flu:1:primary"), 401),
    ("a wrong token", "POST", GOVUK, {"authorization": "Bearer a guess"}, govuk_body("flu:1:primary"), 401),
    ("no signature", "POST", NHS, {"x-api-key": API_KEY}, BODY, 403),
    ("forged", "POST", NHS, signed(BODY) | {"x-hmac-sha256-signature": "0" * 64}, BODY, 403),
    ("changed on the way", "POST", NHS, signed(BODY), BODY.replace(b"delivered", b"undeliver"), 403),
    ("the same JSON in other bytes", "POST", NHS, signed(BODY), SPACED, 403),
    ("a signature over nothing", "POST", NHS, signed(b""), BODY, 403),
    ("empty", "POST", NHS, signed(BODY), b"", 403),
    ("signed, not JSON", "POST", NHS, signed(b"{"), b"{", 400),
    ("signed, empty", "POST", NHS, signed(b""), b"", 400),
    ("signed, another shape", "POST", NHS, signed(b'{"data": 1}'), b'{"data": 1}', 400),
    ("half a character", "POST", NHS, signed(UNPAIRED), UNPAIRED, 400),
    ("a NUL", "POST", NHS, signed(status_body("flu\0")), status_body("flu\0"), 400),
    ("a huge id", "POST", NHS, signed(status_body("x" * 501)), status_body("x" * 501), 400),
    ("with a token, not JSON", "POST", GOVUK, BEARER, b"[]", 400),
    ("compressed", "POST", NHS, signed(BODY) | {"content-encoding": "gzip"}, BODY, 415),
    ("a byte too long", "POST", NHS, signed(b"x" * (LIMIT + 1)), b"x" * (LIMIT + 1), 413),
    ("an unknown workspace", "POST", NHS.replace("riverside", "elsewhere"), signed(BODY), BODY, 404),
    ("an unknown provider", "POST", NHS.replace("nhs-notify", "smtp"), signed(BODY), BODY, 404),
    ("with a slash", "POST", f"{NHS}/", signed(BODY), BODY, 404),
    ("fetched", "GET", NHS, signed(BODY), b"", 405),
    ("put", "PUT", NHS, signed(BODY), BODY, 405),
]


@pytest.mark.parametrize(
    ("method", "path", "headers", "body", "status"), [row[1:] for row in REFUSED], ids=[row[0] for row in REFUSED]
)
def test_what_is_refused_is_not_stored(
    gateway: Gateway, client: httpx.Client, method: str, path: str, headers: dict[str, str], body: bytes, status: int
) -> None:
    answer = client.request(method, path, content=body, headers=headers)
    assert (answer.status_code, list(answer.json())) == (status, ["error"])
    assert stored(gateway.ledger) == []
    assert client.post(NHS, content=BODY, headers=signed(BODY)).status_code == 202  # it lives on


def test_a_refusal_says_what_http_wants_of_it(client: httpx.Client) -> None:
    assert client.get(NHS).headers["allow"] == "POST"
    assert client.post(NHS, content=BODY).headers["www-authenticate"] == Signed().challenge


def test_nobody_learns_which_workspaces_there_are(client: httpx.Client) -> None:
    def shown(method: str, path: str) -> tuple[Any, ...]:
        answer = client.request(method, path, headers=signed(b""))
        told = {name: value for name, value in answer.headers.items() if name not in {"date", "x-request-id"}}
        return answer.status_code, answer.content, told

    for method in ("POST", "GET", "DELETE"):
        unknown = shown(method, "/nothing/here")
        assert unknown[0] == 404
        assert shown(method, "/callbacks/elsewhere/nhs-notify") == unknown
        assert shown(method, "/callbacks/riverside/smtp") == unknown


# Bodies that come in another way


class Raw:
    """A caller that minds no rules."""

    def __init__(self, gateway: Gateway, headers: dict[str, str]) -> None:
        self.socket = socket.create_connection(("127.0.0.1", gateway.port), 10)
        lines = [f"POST {NHS} HTTP/1.1", "host: 127.0.0.1", *(f"{name}: {value}" for name, value in headers.items())]
        self.send("\r\n".join(lines).encode() + b"\r\n\r\n")

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def close(self) -> None:
        self.socket.close()

    def status(self) -> int:
        """Of the first answer; 0 when the connection was closed without one."""
        head = b""
        while b"\r\n" not in head:
            part = self.socket.recv(4096)
            if not part:
                return 0
            head += part
        return int(head.split(b" ")[1])


Call = Callable[[dict[str, str]], Raw]


@pytest.fixture
def call(gateway: Gateway) -> Iterator[Call]:
    with ExitStack() as made:
        yield lambda headers: made.enter_context(closing(Raw(gateway, headers)))


def test_a_chunked_body_is_refused_as_soon_as_it_is_too_long(call: Call) -> None:
    caller = call(signed(BODY) | {"transfer-encoding": "chunked"})
    for _ in range(10):
        caller.send(b"186a0\r\n" + b"x" * 100_000 + b"\r\n")
    caller.send(b"1\r\nx\r\n")  # the byte over the limit; the body's end never comes
    assert caller.status() == 413


def test_a_chunked_body_of_any_pieces_is_taken(call: Call) -> None:
    caller = call(signed(BODY) | {"transfer-encoding": "chunked"})
    for byte in BODY:
        caller.send(b"1\r\n" + bytes([byte]) + b"\r\n")
    caller.send(b"0\r\n\r\n")
    assert caller.status() == 202


def test_a_body_that_is_announced_as_too_long_is_not_waited_for(call: Call) -> None:
    assert call(signed(BODY) | {"content-length": str(10**12)}).status() == 413


@pytest.mark.parametrize("headers", [signed(BODY), {}], ids=["genuine", "no key"])
def test_a_body_that_does_not_come_is_not_waited_for_long(
    gateway: Gateway, call: Call, headers: dict[str, str]
) -> None:
    caller = call(headers | {"content-length": str(len(BODY))})
    caller.send(BODY[:-1])
    began = time.monotonic()
    assert caller.status() == 408
    assert 0.3 < time.monotonic() - began < 5
    assert stored(gateway.ledger) == []


def test_a_body_that_trickles_is_not_waited_for_long_either(call: Call) -> None:
    caller = call(signed(BODY) | {"content-length": str(len(BODY))})
    for byte in BODY[:4]:
        caller.send(bytes([byte]))
        time.sleep(0.1)
    assert caller.status() == 408


def test_slow_callers_do_not_hold_up_others(call: Call, client: httpx.Client) -> None:
    slow = [call(signed(BODY) | {"content-length": str(len(BODY))}) for _ in range(100)]
    began = time.monotonic()
    assert client.post(NHS, content=BODY, headers=signed(BODY)).status_code == 202
    assert time.monotonic() - began < 0.4
    assert {caller.status() for caller in slow} == {408}


# Clients that go away


def test_a_caller_that_goes_away_within_its_body_leaves_nothing(
    gateway: Gateway, call: Call, client: httpx.Client
) -> None:
    caller = call(signed(BODY) | {"content-length": str(len(BODY))})
    caller.send(BODY[:-1])
    caller.close()
    assert client.get("/healthz").status_code == 200
    assert stored(gateway.ledger) == []


def test_callers_that_go_away_before_the_answer_lose_and_double_nothing(
    gateway: Gateway, call: Call, client: httpx.Client
) -> None:
    bodies = [status_body(f"flu:{line}:primary") for line in range(50)]
    for body in bodies:
        caller = call(signed(body) | {"content-length": str(len(body))})
        caller.send(body)
        caller.close()
    for body in bodies:  # unanswered, so they are sent again
        assert client.post(NHS, content=body, headers=signed(body)).status_code == 202
    assert [reference for _, reference in stored(gateway.ledger)] == sorted(f"flu:{n}:primary" for n in range(50))


# Repeats, shuffles, crowds


def test_a_replayed_call_stores_nothing_a_second_time(gateway: Gateway, client: httpx.Client) -> None:
    for _ in range(3):
        assert client.post(NHS, content=BODY, headers=signed(BODY)).status_code == 202
    assert len(stored(gateway.ledger)) == 1


def test_repeats_and_shuffles_lead_to_the_same_state(tmp_path_factory: pytest.TempPathFactory) -> None:
    chance = random.Random(2026)
    told = [
        callback(f"{BATCH}:{line}:primary", status=status, at=f"2026-10-01T{hour:02}:00:00Z")
        for line in range(2, 22)
        for status, hour in chance.sample([("delivered", 11), ("delivered", 10), ("read", 12), ("read", 9)], 2)
    ]
    shuffled = chance.sample([*told, *chance.choices(told, k=40)], len(told) + 40)
    assert _state_after(tmp_path_factory.mktemp("in order"), told, 1) == _state_after(
        tmp_path_factory.mktemp("shuffled"), shuffled, 16
    )


def _state_after(folder: Path, calls: list[bytes], connections: int) -> list[tuple[Any, ...]]:
    ledger = open_ledger(folder)
    queue(ledger, lines(20, provider="nhs_notify"))
    begin(ledger, *range(2, 22))
    with Gateway(folder) as gateway:
        asyncio.run(post_until_taken(gateway.port, calls, connections))
        assert fold(gateway.ledger, NOW).unknown == 0
        state = attempt_rows(ledger, "line", "accepted_at", "delivered_at", "read_at", "failed_at")
    ledger.close()
    assert all(delivered or read for _, _, delivered, read, _ in state)
    return state


def test_hundreds_at_once_are_all_taken(gateway: Gateway) -> None:
    calls = [callback(f"flu:{line}:primary") for line in range(600)]
    took = asyncio.run(post_until_taken(gateway.port, calls, 300))
    assert len(took) == 600
    assert len(stored(gateway.ledger)) == 600
    assert [line["status"] for line in gateway.log(600)] == [202] * 600


def test_the_body_is_what_was_signed(gateway: Gateway, client: httpx.Client) -> None:
    """Bytes that a parser would mend: the signature is over what came."""
    odd = b"\xef\xbb\xbf" + BODY
    answer = client.post(NHS, content=odd, headers={"x-api-key": API_KEY, "x-hmac-sha256-signature": signature(BODY)})
    assert answer.status_code == 403
