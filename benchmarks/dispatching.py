"""How many messages a second are dispatched, on SQLite and on PostgreSQL, apart from what the provider takes.

``python -m benchmarks.dispatching --messages 100000 --rounds 3``. First a provider that answers at once, by chunks and
calls at once as each kind really takes them (``KINDS``), as a batch is dispatched: with the claims journal and the
circuit breaker; and without them. The median of the rounds counts; beside it, how much of a processor the dispatching
process took. No account's rate is kept to: there a message waits for the provider, not for us. Then, on PostgreSQL, one
that takes ``--milliseconds`` a call, for one process and for four at once. Each round has a fresh ledger; that each
message was sent once is counted in a journal that the provider keeps. The PostgreSQL is one of the benchmark's own,
with fsync.
"""

import argparse
import itertools
import multiprocessing
import os
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from multiprocessing.queues import SimpleQueue
from multiprocessing.synchronize import Barrier
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple, TextIO

from typing_extensions import override

from batch_pipeline.ledger.breaker import Breaker
from batch_pipeline.ledger.engine import Ledger
from batch_pipeline.ledger.journal import Journal
from batch_pipeline.providers import govuk_notify, nhs_notify
from batch_pipeline.providers.protocol import Answer, Limits, OutgoingMessage, Provider, Recovery
from batch_pipeline.rules import circuit_breaker
from batch_pipeline.sending.dispatcher import dispatch
from batch_pipeline.sending.recording import Recorder
from batch_pipeline_tests import postgres
from batch_pipeline_tests.ledger import given

AT = datetime(2026, 10, 1, 9, tzinfo=UTC)
_FEW = 2_000
"""Messages of a round of chunks of one: each waits for the disk."""
_TIMEOUT = timedelta(seconds=5)


@dataclass(frozen=True)
class Kind:
    """How a provider takes messages: so many in a chunk, so many calls at once."""

    name: str
    chunk: int
    at_once: int


KINDS = (  # a mail relay: with as many connections as the settings have where nothing else is said
    Kind("batches in a call, as NHS Notify", 5_000, nhs_notify.AT_ONCE),
    Kind("one by one, as GOV.UK Notify", govuk_notify.CHUNK, govuk_notify.AT_ONCE),
    Kind("one by one, as a mail relay", 1, 4),
)
_FOUR_PROCESSES = Kind("a call of 100", 100, 1)


@dataclass(frozen=True)
class _Counting(Provider):
    """Accepts everything, after so many seconds, and writes down what: a file a process, in ``journal``."""

    journal: Path
    kind: Kind
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
        return Limits(self.kind.chunk, _TIMEOUT, at_once=self.kind.at_once)

    @override
    def send(self, chunk_reference: str, messages: Sequence[OutgoingMessage], now: datetime) -> Answer:
        time.sleep(self.seconds)
        file = _file_of(self.journal, threading.get_ident())
        file.writelines(f"{message.reference}\n" for message in messages)
        file.flush()
        return Answer()

    @override
    def held(self, references: Sequence[str]) -> set[str]:
        raise NotImplementedError

    def close(self) -> None:
        """Nothing stays open."""


@cache
def _file_of(journal: Path, thread: int) -> TextIO:
    return (journal / f"{os.getpid()}-{thread}").open("a")


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--messages", type=int, default=100_000)
    parser.add_argument("--milliseconds", type=float, default=50)
    parser.add_argument("--rounds", type=int, default=3)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="batch-pipeline-bench-") as folder:
        numbers = itertools.count()
        for kind, recorded in itertools.product(KINDS, (True, False)):
            urls = [f"sqlite:///{folder}/{next(numbers)}.sqlite" for _ in range(asked.rounds)]
            _print("sqlite", urls, asked.messages, kind, recorded=recorded)
    if postgres.programs() is None:
        print("postgresql: its programs aren't installed")
        return
    with _postgresql() as new_url:
        for kind, recorded in itertools.product(KINDS, (True, False)):
            urls = [new_url() for _ in range(asked.rounds)]
            _print("postgresql", urls, asked.messages, kind, recorded=recorded)
        seconds = asked.milliseconds / 1000
        for processes in (1, 4):
            took = _round(new_url(), asked.messages, _FOUR_PROCESSES, seconds=seconds, processes=processes).seconds
            print(
                f"dispatch, postgresql, {processes} at once, {asked.milliseconds:g} ms {_FOUR_PROCESSES.name}: "
                f"{asked.messages:,} messages in {took:.1f} s, {asked.messages / took:.0f} messages/s"
            )


@contextmanager
def _postgresql() -> Iterator[Callable[[], str]]:
    with postgres.running(durable=True) as cluster:
        yield lambda: cluster.url(cluster.new_database(migrated=False))


def _print(database: str, urls: Sequence[str], messages: int, kind: Kind, *, recorded: bool) -> None:
    some = min(messages, _FEW) if kind.chunk == 1 else messages
    took = [_round(url, some, kind, recorded=recorded) for url in urls]
    rates = sorted(some / each.seconds for each in took)
    spread = f"median of {len(rates)}, {rates[0]:,.0f} to {rates[-1]:,.0f}"
    cpu = median(each.cpu for each in took) / some * 1e6
    how = "as dispatched" if recorded else "without claims journal and circuit breaker"
    print(
        f"dispatch, {database}, {kind.name}, {kind.at_once} calls at once, {how}: {median(rates):,.0f} messages/s "
        f"({some:,} messages, {kind.chunk:,} in a chunk; {spread}; {cpu:,.0f} µs of a processor each)"
    )


class _Took(NamedTuple):
    seconds: float
    """From the first process's beginning to the last's end."""
    cpu: float
    """Seconds of a processor that the processes took together, without the database server's."""


def _round(
    url: str, messages: int, kind: Kind, *, recorded: bool = False, seconds: float = 0, processes: int = 1
) -> _Took:
    """What the dispatch of so many messages takes."""
    with tempfile.TemporaryDirectory(prefix="batch-pipeline-bench-") as folder, _closing(Ledger.open(url)) as ledger:
        given.queue(ledger, given.lines(messages))
        sent_to, claims = Path(folder, "sent"), Path(folder, "claims") if recorded else None
        sent_to.mkdir()
        provider = _Counting(sent_to, kind, seconds)
        context = multiprocessing.get_context("spawn")
        ready = context.Barrier(processes + 1)
        told: SimpleQueue[tuple[float, float, float]] = context.SimpleQueue()
        running = [
            context.Process(target=_dispatch, args=(url, provider, claims, ready, told)) for _ in range(processes)
        ]
        for process in running:
            process.start()
        ready.wait()
        for process in running:
            process.join()
        began, ended, cpu = zip(*(told.get() for _ in running), strict=True)
        took = _Took(max(ended) - min(began), sum(cpu))
        sent = Counter(line for file in sent_to.iterdir() for line in file.read_text().splitlines())
        if sent != dict.fromkeys((row[0] for row in given.attempt_rows(ledger, "reference")), 1):
            raise SystemExit("not every message was sent once")
    return took


@contextmanager
def _closing(ledger: Ledger) -> Iterator[Ledger]:
    yield ledger
    ledger.close()


def _dispatch(
    url: str,
    provider: Provider,
    claims: Path | None,
    ready: Barrier,
    told: "SimpleQueue[tuple[float, float, float]]",
) -> None:
    """In a process of its own, that has imported everything and waits for the others.

    Tells when it began and ended, by the machine's one monotonic clock, and how many seconds of a processor it took.
    """
    with _closing(Ledger.open(url)) as ledger:
        more: dict[str, Any] = {}
        if claims is not None:  # as batch_pipeline.operations.dispatching does
            recorder = Recorder(ledger, Journal(claims))
            breaker = Breaker(ledger, given.BATCH, circuit_breaker.STANDARD)
            more = {
                "before_post": recorder.before_post,
                "before_return": recorder.before_return,
                "was_posted": recorder.was_posted,
            }
            more["after_chunk"] = lambda refused: breaker.after_chunk(refused, AT)
        ready.wait()
        cpu, began = time.process_time(), time.monotonic()
        dispatch(ledger, given.BATCH, {"sms": provider}, now=AT, owner=f"process {os.getpid()}", **more)
        told.put((began, time.monotonic(), time.process_time() - cpu))


if __name__ == "__main__":
    main()
