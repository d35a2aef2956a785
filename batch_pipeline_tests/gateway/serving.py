"""A gateway to test: its readers, what providers would send them, and a process that serves it on loopback."""

import hashlib
import hmac
import json
import multiprocessing
import os
import random
import signal
import socket
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Self

import httpx
import sqlalchemy as sa
from starlette.types import ASGIApp

from batch_pipeline.gateway.app import GatewayLimits, Readers, make_app
from batch_pipeline.gateway.callbacks import Malformed, NotAllowed, NotAuthenticated, Reading
from batch_pipeline.gateway.server import run
from batch_pipeline.ledger.engine import Ledger
from batch_pipeline.ledger.tables import receipts
from batch_pipeline.providers.protocol import Receipt
from batch_pipeline_tests.ledger.given import open_ledger
from batch_pipeline_tests.processes import CONTEXT

API_KEY = "a key for tests"
SECRET = f"an-application.{API_KEY}".encode()
TOKEN = "a token for tests, long enough"
NHS = "/callbacks/riverside/nhs-notify"
GOVUK = "/callbacks/riverside/govuk-notify"
AT = "2026-10-01T09:00:00.000Z"


@dataclass(frozen=True)
class Signed:
    """NHS Notify's rules (PROVIDERS 1): a key in a header, and a signature over the raw bytes."""

    challenge: str = "ApiKey"

    def admit(self, headers: Mapping[str, str]) -> None:
        if not hmac.compare_digest(headers.get("x-api-key", "").encode(), API_KEY.encode()):
            raise NotAuthenticated

    def read(self, headers: Mapping[str, str], body: bytes) -> Reading:
        if not hmac.compare_digest(headers.get("x-hmac-sha256-signature", "").encode(), signature(body).encode()):
            raise NotAllowed
        try:
            data = json.loads(body)["data"]
            readable = [one for one in data if one["type"] == "MessageStatus"]
            told = [_receipt(one["meta"]["idempotencyKey"], one["attributes"]) for one in readable]
            return Reading(told, [json.dumps(one) for one in data if one not in readable])
        except (ValueError, KeyError, TypeError):
            raise Malformed from None


@dataclass(frozen=True)
class Bearer:
    """GOV.UK Notify's rules (PROVIDERS 3): a token, and no signature."""

    challenge: str = "Bearer"

    def admit(self, headers: Mapping[str, str]) -> None:
        if not hmac.compare_digest(headers.get("authorization", "").encode(), f"Bearer {TOKEN}".encode()):
            raise NotAuthenticated

    def read(self, headers: Mapping[str, str], body: bytes) -> Reading:
        try:
            told = json.loads(body)
            if told["reference"] == "a fault of ours":
                raise RuntimeError(f"this message quotes {told['to']}")
            if told["status"] == "sending":
                return Reading()
            key = f"{told['id']}/{told['status']}"
            return Reading([Receipt(key, _text(told["reference"]), "delivered", datetime.now(UTC))])
        except (ValueError, KeyError, TypeError):
            raise Malformed from None


def _receipt(key: object, told: dict[str, Any]) -> Receipt:
    kind: Any = _text(told["messageStatus"])
    return Receipt(_text(key), _text(told["messageReference"]), kind, datetime.fromisoformat(told["timestamp"]))


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value


READERS: Readers = {("riverside", "nhs-notify"): Signed(), ("riverside", "govuk-notify"): Bearer()}


def signature(body: bytes) -> str:
    return hmac.new(SECRET, body, hashlib.sha256).hexdigest()


def status_body(*references: str, status: str = "delivered", at: str = AT) -> bytes:
    """NHS Notify's body for these messages; the same one has the same key."""
    data = [
        {
            "type": "MessageStatus",
            "attributes": {
                "messageId": "2WL3qFTEFM0qMY8xjRbt1LIKCzM",
                "messageReference": reference,
                "messageStatus": status,
                "channels": [{"type": "sms", "channelStatus": "delivered"}],
                "timestamp": at,
            },
            "meta": {"idempotencyKey": f"{reference}/{status}/{at}"},
        }
        for reference in references
    ]
    return json.dumps({"data": data}).encode()


def signed(body: bytes) -> dict[str, str]:
    return {"x-api-key": API_KEY, "x-hmac-sha256-signature": signature(body), "content-type": "application/json"}


BEARER = {"authorization": f"Bearer {TOKEN}", "content-type": "application/json"}


def govuk_body(reference: str, status: str = "delivered", **more: str) -> bytes:
    return json.dumps({"id": f"id of {reference}", "reference": reference, "status": status} | more).encode()


def stored(ledger: Ledger) -> list[tuple[str, str]]:
    """Provider and reference of every receipt, in order."""
    with ledger.read() as connection:
        rows = connection.execute(sa.select(receipts.c.provider, receipts.c.reference))
        return sorted((row.provider, row.reference) for row in rows)


_CLIENTS_PORTS = Path("/proc/sys/net/ipv4/ip_local_port_range")


def free_port() -> int:
    """One that the system gives no client by itself.

    Who tries again and again to reach one of those, where nobody listens for the moment, may end up connected to itself:
    then it reads its own words as an answer, and whoever comes back to listen there finds the port taken.
    """
    first = int(_CLIENTS_PORTS.read_text().split()[0]) if _CLIENTS_PORTS.exists() else 32_768
    while True:
        with socket.socket() as probe, suppress(OSError):
            port = random.randrange(first // 2, first)
            probe.bind(("127.0.0.1", port))
            return port


@dataclass
class Gateway:
    """A gateway in a process of its own over the ledger in a folder. Use it in ``with``."""

    folder: Path
    limits: GatewayLimits = field(default_factory=GatewayLimits)
    readers: Readers = field(default_factory=lambda: READERS)
    port: int = field(default_factory=free_port)

    def __post_init__(self) -> None:
        self.ledger = open_ledger(self.folder)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def log_path(self) -> Path:
        return self.folder / "gateway.log"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        self.ledger.close()

    def start(self) -> None:
        self.process = CONTEXT.Process(
            target=serve, args=(self.folder, self.log_path, self.port, self.limits, self.readers)
        )
        self.process.start()
        self._until_it_answers()

    def _until_it_answers(self) -> None:
        give_up = time.monotonic() + 30
        while time.monotonic() < give_up:
            assert self.process.is_alive(), self.log_path.read_text()
            try:
                if httpx.get(f"{self.url}/readyz").status_code == 200:
                    return
            except httpx.TransportError:
                time.sleep(0.02)
        raise AssertionError(self.log_path.read_text())

    def stop(self) -> int | None:
        """As an operator does it; gives the exit code."""
        self.process.terminate()
        self.process.join(20)
        return self.process.exitcode

    def kill(self) -> None:
        """As a power cut does it: the server and its worker, at once. The worker, which isn't ours, may take a moment."""
        os.killpg(self.process.pid or 0, signal.SIGKILL)
        self.process.join(20)
        give_up = time.monotonic() + 20
        while self._is_taken():
            assert time.monotonic() < give_up, "a worker has outlived its being killed"
            time.sleep(0.005)

    def _is_taken(self) -> bool:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", self.port))
            except OSError:
                return True
        return False

    def client(self, **more: Any) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=20, **more)

    def log(self, lines: int = 0) -> list[dict[str, Any]]:
        """What it has logged, every line a JSON object; waits for so many: a line is written after its answer."""
        give_up = time.monotonic() + 5
        while True:
            found = self.log_path.read_text().splitlines()
            if len(found) >= lines or time.monotonic() > give_up:
                return [json.loads(line) for line in found]
            time.sleep(0.01)


def serve(folder: Path, log: Path, port: int, limits: GatewayLimits, readers: Readers) -> None:
    """In a process of its own, and in a group of its own, so that it can be killed with its worker."""
    os.setsid()
    multiprocessing.set_start_method("fork", force=True)  # as from a shell; a forkserver's child would spawn, slowly
    with log.open("ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    run(partial(app_of, folder, limits, readers), "127.0.0.1", port)


def app_of(folder: Path, limits: GatewayLimits, readers: Readers) -> ASGIApp:
    return make_app(open_ledger(folder), readers, lambda: datetime.now(UTC), limits)
