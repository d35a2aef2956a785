"""How many messages a second are dispatched, on SQLite and on PostgreSQL, apart from what the provider takes.

``python -m benchmarks.dispatching --messages 100000 --rounds 3``. First a provider that answers at once, for chunks as
its kind takes them: 5,000 (a batch in a call, as NHS Notify), 100 (one by one, many at a time, as GOV.UK Notify) and 1
(a mail relay); the median of the rounds counts. Then, on PostgreSQL, one that takes ``--milliseconds`` a call, for one
process and for four at once. Each round has a fresh ledger; that each message was sent once is counted in a journal
that the provider keeps. The PostgreSQL is one of the benchmark's own, with fsync.
"""

import argparse
import itertools
import multiprocessing
import os
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from multiprocessing.synchronize import Barrier
from pathlib import Path
from statistics import median

from typing_extensions import override

from batch_pipeline.ledger.engine import Ledger
from batch_pipeline.providers.protocol import Answer, Limits, OutgoingMessage, Provider, Recovery
from batch_pipeline.sending.dispatcher import dispatch
from batch_pipeline_tests import postgres
from batch_pipeline_tests.ledger import given

AT = datetime(2026, 10, 1, 9, tzinfo=UTC)
CHUNKS = (5_000, 100, 1)
_FEW = 5_000
"""Messages of a round of chunks of one: each costs a commit."""
_TIMEOUT = timedelta(seconds=5)


@dataclass(frozen=True)
class _Counting(Provider):
    """Accepts everything, after so many seconds, and writes down what: a file a process, in ``journal``."""

    journal: Path
    chunk: int
    seconds: float = 0

    @property
    @override
    def name(self) -> str:
        return "simulator"

    @property
    @override
    def recovery(self) -> Recovery:
        return Recovery.NEITHER

    @property
    @override
    def limits(self) -> Limits:
        return Limits(self.chunk, _TIMEOUT)

    @override
    def send(self, chunk_reference: str, messages: Sequence[OutgoingMessage], now: datetime) -> Answer:
        time.sleep(self.seconds)
        with (self.journal / str(os.getpid())).open("a") as file:
            file.writelines(f"{message.reference}\n" for message in messages)
        return Answer()

    @override
    def held(self, references: Sequence[str]) -> set[str]:
        raise NotImplementedError

    def close(self) -> None:
        """Nothing stays open."""


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--messages", type=int, default=100_000)
    parser.add_argument("--milliseconds", type=float, default=50)
    parser.add_argument("--rounds", type=int, default=3)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="batch-pipeline-bench-") as folder:
        numbers = itertools.count()
        for chunk in CHUNKS:
            urls = [f"sqlite:///{folder}/{next(numbers)}.sqlite" for _ in range(asked.rounds)]
            _print("sqlite", urls, asked.messages, chunk)
    if postgres.programs() is None:
        print("postgresql: its programs aren't installed")
        return
    with _postgresql() as new_url:
        for chunk in CHUNKS:
            _print("postgresql", [new_url() for _ in range(asked.rounds)], asked.messages, chunk)
        seconds = asked.milliseconds / 1000
        for processes in (1, 4):
            took = _round(new_url(), asked.messages, chunk=100, seconds=seconds, processes=processes)
            print(
                f"dispatch, postgresql, {processes} at once, {asked.milliseconds:g} ms a call of 100: "
                f"{asked.messages:,} messages in {took:.1f} s, {asked.messages / took:.0f} messages/s"
            )


@contextmanager
def _postgresql() -> Iterator[Callable[[], str]]:
    with postgres.running(durable=True) as cluster:
        yield lambda: cluster.url(cluster.new_database(migrated=False))


def _print(database: str, urls: Sequence[str], messages: int, chunk: int) -> None:
    some = min(messages, _FEW) if chunk == 1 else messages
    rates = sorted(some / _round(url, some, chunk=chunk) for url in urls)
    spread = f"median of {len(rates)}, {rates[0]:,.0f} to {rates[-1]:,.0f}"
    print(f"dispatch, {database}, chunks of {chunk:,}: {median(rates):,.0f} messages/s ({some:,} messages; {spread})")


def _round(url: str, messages: int, *, chunk: int, seconds: float = 0, processes: int = 1) -> float:
    """Seconds that the dispatch of so many messages takes, from the first process's beginning to the last's end."""
    with tempfile.TemporaryDirectory(prefix="batch-pipeline-bench-") as folder, _closing(Ledger.open(url)) as ledger:
        given.queue(ledger, given.lines(messages))
        provider = _Counting(Path(folder), chunk, seconds)
        context = multiprocessing.get_context("spawn")
        ready = context.Barrier(processes + 1)
        running = [context.Process(target=_dispatch, args=(url, provider, ready)) for _ in range(processes)]
        for process in running:
            process.start()
        ready.wait()
        began = time.monotonic()
        for process in running:
            process.join()
        took = time.monotonic() - began
        sent = Counter(line for file in Path(folder).iterdir() for line in file.read_text().splitlines())
        if sent != dict.fromkeys((row[0] for row in given.attempt_rows(ledger, "reference")), 1):
            raise SystemExit("not every message was sent once")
    return took


@contextmanager
def _closing(ledger: Ledger) -> Iterator[Ledger]:
    yield ledger
    ledger.close()


def _dispatch(url: str, provider: Provider, ready: Barrier) -> None:
    """In a process of its own, that has imported everything and waits for the others."""
    with _closing(Ledger.open(url)) as ledger:
        ready.wait()
        dispatch(ledger, given.BATCH, {"sms": provider}, now=AT, owner=f"process {os.getpid()}")


if __name__ == "__main__":
    main()
