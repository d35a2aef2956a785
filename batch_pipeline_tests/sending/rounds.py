"""One round: a thousand messages to a provider's double, by dispatches that are killed, stopped and cut off.

What happens is drawn from the round's seed: which faults, after how many messages, to how many processes. Real
processes are killed (SIGKILL) and stopped (SIGSTOP, SIGCONT), the gateway and PostgreSQL too; the clock alone is ours
(``SharedClock``), so that no round has to sit a lease out.
"""

import asyncio
import os
import random
import signal
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from functools import cache
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

import psycopg
import sqlalchemy as sa

from batch_pipeline.ledger import chunks
from batch_pipeline.ledger.tables import chunks as chunks_table
from batch_pipeline.providers._reference_tokens import ReferenceTokens
from batch_pipeline.providers.bounces import Bounces
from batch_pipeline.providers.smtp import SmtpAccount
from batch_pipeline.sending import receipts
from batch_pipeline_tests.gateway.serving import Gateway
from batch_pipeline_tests.ledger.given import BATCH, ELSEWHERE, NOW, Recipient, open_ledger, queue
from batch_pipeline_tests.postgres import Cluster
from batch_pipeline_tests.processes import CONTEXT
from batch_pipeline_tests.providers import bounce_samples
from batch_pipeline_tests.sending.round_oracle import Facts
from batch_pipeline_tests.sending.round_processes import Errand, SharedClock, owner_name, run_errand
from batch_pipeline_tests.sending.round_services import READERS, SERVICES, Callback, Kind, Service, SmtpService
from batch_pipeline_tests.sending.worlds import SERVER_GONE
from benchmarks.gateway import post_until_taken

Fault = Literal["kill", "stop", "crash"]

_LONG = timedelta(hours=2)
"""Longer than any lease, with the pauses that it may be renewed by."""
_STANDSTILL = 0.3
"""Seconds without a request after which the processes wait for a lease to end."""
_GIVE_UP = 300.0
_MOST_DISPATCHES = 30
_BAD_NUMBER = "+447700900"
"""No number: the provider refuses the message."""


@dataclass(frozen=True)
class Strike:
    """One fault."""

    fault: Fault
    after: int
    """Messages taken since the fault before."""
    processes: int
    """That are at work when it strikes."""
    whole: bool
    """Whether it strikes all of them, or one."""


@dataclass(frozen=True)
class Plan:
    """What a seed makes of a round."""

    provider: str
    seed: int
    messages: int
    strikes: tuple[Strike, ...]
    chunk: int
    postgresql: bool
    gateway: bool

    @classmethod
    def of(cls, provider: str, seed: int, messages: int = 1_000) -> "Plan":
        """Each 8th round is on PostgreSQL, which dies as well, and in each 10th a real gateway does."""
        chance = random.Random(f"{provider}/{seed}")
        postgresql = seed % 8 == 7
        faults: list[Fault] = ["kill", "kill", "stop", *(["crash"] if postgresql else [])]
        count = chance.randint(2, 4)
        strikes = tuple(
            Strike(
                fault=chance.choice(faults),
                after=chance.randrange(messages // count),
                processes=chance.randint(1, 2),
                whole=chance.random() < 0.5,
            )
            for _ in range(count)
        )
        if postgresql:
            strikes += (Strike("crash", chance.randrange(messages // count), 1, whole=True),)
        return cls(
            provider=provider,
            seed=seed,
            messages=messages,
            strikes=strikes,
            chunk=chance.choice([10, 25, 50]) if messages >= 1_000 else 5,
            postgresql=postgresql,
            gateway=seed % 10 == 3 and provider in READERS,
        )


def recipients(provider: str, seed: int, messages: int) -> list[Recipient]:
    """By all channels of the provider; at GOV.UK Notify, which refuses each message by itself, some have a bad number."""
    chance = random.Random(f"recipients of {provider}/{seed}")
    channels = SERVICES[provider].channels
    share_of_first = chance.choice([0.5, 0.8, 1.0])

    def one(line: int) -> Recipient:
        path = channels[0] if chance.random() < share_of_first else chance.choice(channels)
        bad = provider == "govuk_notify" and path == "sms" and chance.random() < 0.01
        return Recipient(line, path, provider, number=_BAD_NUMBER if bad else "")

    return [one(line) for line in range(2, messages + 2)]


@dataclass
class Round:
    """A round that is under way."""

    plan: Plan
    folder: Path
    service: Service
    clock: SharedClock
    cluster: Cluster | None
    gateway: Gateway | None
    chance: random.Random
    at_work: list[ForkServerProcess] = field(default_factory=list)
    stopped: list[ForkServerProcess] = field(default_factory=list)
    in_hand: set[str] = field(default_factory=set)
    """References of the messages that a process held when it was killed, stopped past its lease or cut off."""
    told: dict[str, set[Kind]] = field(default_factory=dict)
    """What the provider has said, and was acknowledged, by message."""
    telling: list[threading.Thread] = field(default_factory=list)
    crashed: bool = False

    def __post_init__(self) -> None:
        self.ledger = open_ledger(self.folder)
        self.errand = Errand(self.folder, self.service.account, self.service.channels, self.plan.chunk, self.clock)

    def run(self) -> Facts:
        for strike in self.plan.strikes:
            self._strike(strike)
            self._tell(self.chance.random() * 0.5)
            if self.gateway is not None and self.chance.random() < 0.7:
                self.gateway.kill()
                self.gateway.start()
        self._finish()
        self._tell(1.0)
        self._end_telling()
        self._bounce()
        receipts.fold(self.ledger, NOW)
        facts = Facts.gather(self.ledger, self.service, self.told, self.in_hand)
        self.ledger.close()
        return facts

    # Processes -------------------------------------------------------------------------------------------------------

    def _start(self) -> ForkServerProcess:
        process = CONTEXT.Process(target=run_errand, args=[self.errand])
        process.start()
        self.at_work.append(process)
        return process

    def _let_go_of_the_ended(self) -> None:
        """Those that ended by themselves ended well."""
        for process in [process for process in self.at_work if not process.is_alive()]:
            self.at_work.remove(process)
            allowed = {0, SERVER_GONE} if self.crashed else {0}
            assert process.exitcode in allowed, f"a dispatch ended with exit code {process.exitcode}"

    def _strike(self, strike: Strike) -> None:
        while len(self.at_work) < strike.processes:
            self._start()
        self._let_take(strike.after)
        time.sleep(self.chance.uniform(0, 0.02))
        match strike.fault:
            case "kill":
                self._kill(whole=strike.whole)
            case "stop":
                self._stop_past_the_lease(strike.after // 2)
            case "crash":
                self._crash()

    def _let_take(self, messages: int) -> None:
        """Until it has taken so many more and all have a chunk in hand, or there is nothing left to send.

        A dispatch whose provider failed it too often in a row ends early: then another begins.
        """
        enough = self.service.count() + messages
        for _ in range(_MOST_DISPATCHES):
            self._work_until(lambda: self.service.count() >= enough and self._all_are_at_it())
            if self.at_work or not self._is_anything_left():
                return
            self._let_time_pass()
            self._start()

    def _all_are_at_it(self) -> bool:
        """A fault that strikes a process before it has begun, or after it has ended, shows nothing."""
        return all(map(self._open_chunks_of, self.at_work)) or not self._is_anything_unsent()

    def _work_until(self, reached: Callable[[], bool]) -> None:
        """Until that, or all have ended; time goes on where all only wait for it."""
        give_up = time.monotonic() + _GIVE_UP
        requests, since = -1, time.monotonic()
        while not reached():
            self._let_go_of_the_ended()
            if not self.at_work:
                return
            assert time.monotonic() < give_up, "the dispatches neither send nor end"
            if (now := self.service.requests()) != requests:
                requests, since = now, time.monotonic()
            elif time.monotonic() - since > _STANDSTILL:
                self._let_time_pass()
                requests = -1
            time.sleep(0.003)

    def _kill(self, *, whole: bool) -> None:
        victims = [process for process in self.at_work if process.is_alive()]
        if victims and not whole:
            victims = [self.chance.choice(victims)]
        for victim in victims:
            self.at_work.remove(victim)
            victim.kill()
        for victim in victims:
            victim.join()
            self._note_in_hand(victim)
        if not self.at_work:
            self._let_time_pass()

    def _stop_past_the_lease(self, messages: int) -> None:
        """Stops one, lets its lease end and another take over, and wakes it in the midst of the other's work."""
        alive = [process for process in self.at_work if process.is_alive()]
        if not alive:
            return
        sleeper = self.chance.choice(alive)
        self._halt(sleeper)
        self.at_work.remove(sleeper)
        self.stopped.append(sleeper)
        self._let_time_pass()
        self._start()
        self._work_until(lambda: not self._open_chunks_of(sleeper))
        self._let_take(messages)
        self.stopped.remove(sleeper)
        if self.chance.random() < 0.25:
            sleeper.kill()
            sleeper.join()
        else:
            self.at_work.append(sleeper)
            _signal(sleeper, signal.SIGCONT)

    def _crash(self) -> None:
        assert self.cluster is not None
        self.crashed = True
        self.cluster.crash(self.chance.choice([signal.SIGKILL, signal.SIGQUIT]))
        victims = list(self.at_work)
        for victim in victims:
            victim.join(_GIVE_UP)
            assert not victim.is_alive(), "a dispatch goes on without its ledger"
        self._let_go_of_the_ended()
        self.cluster.start()
        for victim in victims:
            self._note_in_hand(victim)
        self._let_time_pass()

    def _finish(self) -> None:
        """Dispatches, until there is nothing left to do."""
        for _ in range(_MOST_DISPATCHES):
            self._work_until(lambda: False)
            if not self._is_anything_left():
                return
            self._let_time_pass()
            self._start()
        raise AssertionError(f"{_MOST_DISPATCHES} dispatches more have not sent everything")

    def _is_anything_left(self) -> bool:
        if self._is_anything_unsent():
            return True
        with self.ledger.read() as connection:
            return bool(chunks.open_chunks(connection, BATCH, "primary"))

    def _is_anything_unsent(self) -> bool:
        with self.ledger.read() as connection:
            return bool(chunks.unsent(connection, BATCH, "primary"))

    def end(self) -> None:
        """Leaves nobody behind, also when the round has failed."""
        for process in [*self.at_work, *self.stopped]:
            process.kill()
            process.join()

    # Time ------------------------------------------------------------------------------------------------------------

    def _let_time_pass(self) -> None:
        """Lets every lease end, while nobody runs and nothing is under way to the provider any more."""
        alive = [process for process in self.at_work if process.is_alive()]
        for process in alive:
            self._halt(process)
        self._drain()
        self.clock.move(_LONG)
        for process in alive:
            _signal(process, signal.SIGCONT)

    def _halt(self, process: ForkServerProcess) -> None:
        """Stops a process at a moment when it holds no lock on the ledger: everybody would wait for it to wake up."""
        give_up = time.monotonic() + _GIVE_UP
        while True:
            _signal(process, signal.SIGSTOP)
            while _process_state(process) not in "TZX":
                time.sleep(0.001)
            if not any(self._somebody_writes() for _ in range(2)):
                break
            assert time.monotonic() < give_up, "somebody holds a lock on the ledger all the time"
            _signal(process, signal.SIGCONT)
            time.sleep(0.001)
        self._note_in_hand(process)

    def _somebody_writes(self) -> bool:
        if self.cluster is None:
            with closing(sqlite3.connect(self.folder / "ledger.sqlite", timeout=0, isolation_level=None)) as connection:
                try:
                    connection.execute("BEGIN IMMEDIATE")
                except sqlite3.OperationalError:
                    return True
                connection.execute("ROLLBACK")
                return False
        time.sleep(0.01)  # for a statement that is on its way to the server
        with psycopg.connect((self.folder / ELSEWHERE).read_text().replace("+psycopg", "")) as connection:
            query = (
                "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND backend_xid IS NOT NULL"
            )
            found = connection.execute(query).fetchone()
            return found is not None and found[0] > 0

    def _drain(self) -> None:
        """Until the provider has dealt with whatever was written to it: no real lease is so short that it wouldn't have."""
        give_up = time.monotonic() + _GIVE_UP
        quiet, requests = 0, -1
        while quiet < 5:
            assert time.monotonic() < give_up, "the provider's double doesn't come to rest"
            if _is_under_way(self.service.port) or _others_work() or self.service.requests() != requests:
                quiet, requests = 0, self.service.requests()
            else:
                quiet += 1
            time.sleep(0.004)

    def _note_in_hand(self, process: ForkServerProcess) -> None:
        """Who loses a lease by a fault leaves that chunk and goes on: what was in hand at a fault before isn't new."""
        open_ones = self._open_chunks_of(process)
        with self.ledger.read() as connection:
            found = {
                message.reference
                for chunk in chunks.open_chunks(connection, BATCH, "primary")
                if chunk.reference in open_ones
                for message in chunks.messages(connection, chunk)
            }
        new = found - self.in_hand
        assert not self.service.one_in_doubt or len(new) <= self.service.workers, "more in hand than connections"
        self.in_hand |= new

    def _open_chunks_of(self, process: ForkServerProcess) -> set[str]:
        query = sa.select(chunks_table.c.reference).where(
            chunks_table.c.owner == owner_name(process.pid or 0), chunks_table.c.settled_at.is_(None)
        )
        with self.ledger.read() as connection:
            return set(connection.scalars(query))

    # Receipts --------------------------------------------------------------------------------------------------------

    def _tell(self, share: float) -> None:
        """Has the provider tell of a part of what it has taken, or of all: in any order, and some of it twice."""
        if self.service.name not in READERS:
            return
        calls = self.service.callbacks(self.chance, share)
        if self.gateway is None:
            self._read(calls)
        else:
            self._end_telling()
            thread = threading.Thread(target=self._post, args=[self.gateway.port, calls], daemon=True)
            thread.start()
            self.telling.append(thread)
        if self.chance.random() < 0.5:
            receipts.fold(self.ledger, NOW, self.chance.choice([BATCH, None]))

    def _read(self, calls: Sequence[Callback]) -> None:
        """As the gateway does it, in some commits."""
        reader = READERS[self.service.name]
        found: list[receipts.Receipt] = []
        for call in calls:
            reader.admit(call.headers)
            found += reader.read(call.headers, call.body).receipts
            if len(found) >= 400:
                receipts.store(self.ledger, self.service.name, found, NOW)
                found = []
        receipts.store(self.ledger, self.service.name, found, NOW)
        self._note_told(calls)

    def _post(self, port: int, calls: Sequence[Callback]) -> None:
        """To the real gateway, each until it is answered 202."""
        path = f"/callbacks/riverside/{self.service.name.replace('_', '-')}"
        taken = asyncio.run(post_until_taken(port, [_request(path, call) for call in calls], 8))
        if len(taken) == len(calls):
            self._note_told(calls)

    def _note_told(self, calls: Sequence[Callback]) -> None:
        for call in calls:
            for reference, kind in call.says:
                self.told.setdefault(reference, set()).add(kind)

    def _end_telling(self) -> None:
        for thread in self.telling:
            thread.join(_GIVE_UP)
            assert not thread.is_alive(), "the gateway doesn't take the provider's calls"
        self.telling.clear()

    def _bounce(self) -> None:
        """Some of what a mail server took comes back, twice."""
        if not isinstance(self.service, SmtpService):
            return
        taken = sorted(self.service.taken())
        bounced = self.chance.sample(taken, min(5, len(taken)))
        letters: list[str] = []
        for reference in bounced:
            bounce = bounce_samples.EXIM.replace("MESSAGE-ID", self.service.message_id(reference))
            letters += [f"From MAILER-DAEMON\n{bounce.replace('BOUNCE', 'bounce@surgery.example.test')}\n"] * 2
            self.told.setdefault(reference, set()).add("failed")
        box = self.folder / "bounces"
        box.write_text("\n".join(letters))
        assert isinstance(self.errand.account, SmtpAccount)
        bounces = Bounces(box, ReferenceTokens(self.errand.account.reference_key))
        for _ in range(2):
            receipts.collect(self.ledger, [bounces], NOW)


def _request(path: str, call: Callback) -> bytes:
    headers = {"content-type": "application/json", **call.headers, "host": "127.0.0.1"}
    lines = [f"POST {path} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
    return "\r\n".join([*lines, f"content-length: {len(call.body)}"]).encode() + b"\r\n\r\n" + call.body


def _signal(process: ForkServerProcess, number: signal.Signals) -> None:
    # The fork server is its parent: it may be gone between the two.
    with suppress(ProcessLookupError):
        if process.is_alive():
            os.kill(process.pid or 0, number)


def _process_state(process: ForkServerProcess) -> str:
    """By the kernel's letter: T is stopped, Z and X are gone."""
    try:
        stat = Path(f"/proc/{process.pid}/stat").read_text()
    except FileNotFoundError:
        return "X"
    return stat.rpartition(")")[2].split()[0]


_LISTENS, _CLOSED_BY_US, _HUNG_UP = "0A", ("04", "05", "06", "07", "09", "0B"), "08"
"""States of a connection in the kernel's table."""


def _is_under_way(port: int) -> bool:
    """Whether anything that was written to this port hasn't been read yet; also by a process that is gone."""
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        _, local, _, state, queues, *_ = line.split()
        if not local.endswith(f":{port:04X}") or state == _LISTENS or state in _CLOSED_BY_US:
            continue
        if state == _HUNG_UP or not queues.endswith(":00000000"):
            return True
    return False


def _others_work() -> bool:
    """Whether a thread of the double's has something to do: one that has read a request and waits for its turn, say."""
    me = threading.get_native_id()
    for task in Path("/proc/self/task").iterdir():
        with suppress(FileNotFoundError, ProcessLookupError):
            if int(task.name) != me and (task / "stat").read_text().rpartition(")")[2].split()[0] == "R":
                return True
    return False


# Ledgers -------------------------------------------------------------------------------------------------------------


@cache
def _queued(provider: str, seed: int, messages: int) -> bytes:
    """An SQLite ledger with a batch to send."""
    with TemporaryDirectory() as folder:
        ledger = open_ledger(Path(folder))
        queue(ledger, recipients(provider, seed, messages))
        ledger.close()
        return (Path(folder) / "ledger.sqlite").read_bytes()


_COHORTS = 4
"""Rounds with different recipients; the other rounds have one of these again: to queue them takes as long as a third of a round."""


@contextmanager
def _ledger_for(plan: Plan, folder: Path, cluster: Cluster | None) -> Iterator[None]:
    cohort = plan.seed % _COHORTS
    if cluster is None:
        (folder / "ledger.sqlite").write_bytes(_queued(plan.provider, cohort, plan.messages))
        yield
        return
    name = cluster.new_database()
    (folder / ELSEWHERE).write_text(cluster.url(name))
    ledger = open_ledger(folder)
    queue(ledger, recipients(plan.provider, cohort, plan.messages))
    ledger.close()
    yield
    cluster.take_back(name)


def play(plan: Plan, folder: Path, cluster: Cluster | None) -> Facts:
    """A whole round; what came of it."""
    with ExitStack() as stack:
        stack.enter_context(_ledger_for(plan, folder, cluster))
        clock = SharedClock()
        service = stack.enter_context(SERVICES[plan.provider](plan.seed, clock))
        gateway = stack.enter_context(_gateway(folder)) if plan.gateway else None
        chance = random.Random(f"{plan.provider}/{plan.seed}/moments")
        under_way = Round(plan, folder, service, clock, cluster, gateway, chance)
        stack.callback(under_way.end)
        return under_way.run()


def _gateway(folder: Path) -> Gateway:
    readers = {("riverside", name.replace("_", "-")): reader for name, reader in READERS.items()}
    return Gateway(folder, readers=readers)
