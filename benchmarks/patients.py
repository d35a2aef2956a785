"""How patients are served who all come within a minute: their links opened, a page of a questionnaire filled in.

``python -m benchmarks.patients --patients 2000 --seconds 60``. A real gateway over a fresh SQLite ledger; each patient has
a connection of their own, comes at a moment of their own, gives the date of birth, opens a day's page, posts four readings and
goes back to the start: six requests. The clients are this process, on the same machine. A request's time is from its first byte
sent to the last of its answer. Each comes from another network address, as a reverse proxy would say.
"""

import argparse
import asyncio
import random
import re
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median, quantiles
from urllib.parse import urlencode, urlsplit

import sqlalchemy as sa

from batch_pipeline.ledger.tables import responses
from batch_pipeline_tests.gateway.patients import asking_batch, served, token
from batch_pipeline_tests.ledger.given import open_ledger
from batch_pipeline_tests.ledger.test_links import BORN

_READINGS = {
    f"day-1.{time}.{number}.{which}": value
    for time in ("morning", "evening")
    for number in (1, 2)
    for which, value in (("systolic", "142"), ("diastolic", "88"))
}
_INPUT = re.compile(r'<input [^>]*name="([^"]+)"[^>]* value="([^"]*)"')


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--patients", type=int, default=2_000)
    parser.add_argument("--seconds", type=float, default=60)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="batch-pipeline-bench-") as folder:
        _measure(Path(folder), asked.patients, asked.seconds)


def _measure(folder: Path, patients: int, seconds: float) -> None:
    ledger = open_ledger(folder)
    asking_batch(ledger, folder, "bp_4_day", count=patients)
    with served(folder, folder) as site:
        began = time.perf_counter()
        took, faults = asyncio.run(_come(urlsplit(site).port or 80, patients, seconds))
        spent = time.perf_counter() - began
    with ledger.read() as connection:
        kept = connection.scalar(sa.select(sa.func.count()).select_from(responses))
    ledger.close()
    milliseconds = [each * 1_000 for each in took]
    print(
        f"{patients:,} patients in {spent:.0f} s, {len(took):,} requests: p50 {median(milliseconds):.0f} ms, "
        f"p99 {quantiles(milliseconds, n=100)[-1]:.0f} ms, longest {max(milliseconds):.0f} ms; "
        f"{kept:,} patients' answers in the ledger, {len(faults):,} faults {sorted(set(faults))[:3]}"
    )


async def _come(port: int, patients: int, seconds: float) -> tuple[list[float], list[str]]:
    took: list[float] = []
    faults: list[str] = []
    chance = random.Random(2026)

    async def one(number: int, after: float) -> None:
        await asyncio.sleep(after)
        try:
            await _Patient(port, number, took).visit()
        except (OSError, asyncio.IncompleteReadError, _Fault) as fault:
            faults.append(f"{type(fault).__name__}: {fault}")

    await asyncio.gather(*(one(number, chance.uniform(0, seconds)) for number in range(patients)))
    return took, faults


@dataclass
class _Patient:
    port: int
    number: int
    took: list[float]
    _cookie: str = field(default="", init=False)

    async def visit(self) -> None:
        """All that this patient does."""
        self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self.port)
        link = f"/{token(2 + self.number)}"
        born = {"day": BORN.day, "month": BORN.month, "year": BORN.year}
        asked = await self._get(link)
        await self._post(link, dict(_INPUT.findall(asked)) | born)
        _require("Start now" in await self._get(link), "the questionnaire isn't shown")
        page = await self._get(f"{link}/questions/1")
        fields = dict(_INPUT.findall(page))
        await self._post(f"{link}/questions/1", fields | _READINGS)
        _require("4 of 4 readings" in await self._get(link), "the readings aren't shown")
        self._writer.close()

    async def _get(self, place: str) -> str:
        return await self._ask("GET", place, b"", 200)

    async def _post(self, place: str, fields: Mapping[str, object]) -> str:
        return await self._ask("POST", place, urlencode(fields).encode(), 303)

    async def _ask(self, method: str, place: str, body: bytes, wanted: int) -> str:
        lines = [
            f"{method} {place} HTTP/1.1",
            "host: 127.0.0.1",
            f"x-forwarded-for: 10.{self.number >> 16}.{self.number >> 8 & 255}.{self.number & 255}",
            *([f"cookie: {self._cookie}"] if self._cookie else []),
            *(["content-type: application/x-www-form-urlencoded", f"content-length: {len(body)}"] if body else []),
        ]
        began = time.perf_counter()
        self._writer.write("\r\n".join(lines).encode() + b"\r\n\r\n" + body)
        head = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        length = re.search(r"(?i)content-length: (\d+)", head)
        content = await self._reader.readexactly(int(length[1]) if length else 0)
        self.took.append(time.perf_counter() - began)
        status = head.split(" ", 2)[1]
        _require(status == str(wanted), f"{method} was answered {status}")
        if kept := re.search(r"(?i)set-cookie: ([^;]+)", head):
            self._cookie = kept[1]
        return content.decode()


def _require(holds: bool, fault: str) -> None:  # noqa: FBT001
    if not holds:
        raise _Fault(fault)


class _Fault(Exception):
    """What a patient saw was not what they should."""


if __name__ == "__main__":
    main()
