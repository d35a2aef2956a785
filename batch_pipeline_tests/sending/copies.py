"""Copies of a ledger, on SQLite and on PostgreSQL, and a batch that is sent with a claims journal beside it."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from typing_extensions import override

from batch_pipeline.ledger import controls, restored
from batch_pipeline.ledger.controls import Hold
from batch_pipeline.ledger.engine import Ledger
from batch_pipeline.ledger.journal import Journal
from batch_pipeline.ledger.restored import PutBack
from batch_pipeline.ledger.tables import metadata
from batch_pipeline.providers.protocol import (
    Answer,
    ChunkRefused,
    NotTaken,
    OutcomeUnknown,
    OutgoingMessage,
    ProviderStopped,
    Recovery,
    RefusedMessage,
)
from batch_pipeline.providers.simulator import Shares, Simulator
from batch_pipeline.sending import dispatcher
from batch_pipeline.sending.dispatcher import Dispatched
from batch_pipeline.sending.recording import Recorder
from batch_pipeline_tests.ledger.given import BATCH, NOW, open_ledger
from batch_pipeline_tests.sending.worlds import Happens, WatchedLedger, WatchedSimulator, World, providers

Copy = Mapping[str, Sequence[dict[str, Any]]]
KEEP = timedelta(days=90)
_TABLES = [table for table in metadata.sorted_tables if table.name != "audit"]
"""All but the audit, of which nothing can be deleted."""


KILLED = {"timeout": timedelta(seconds=0.05), "chunk": 4, "shares": Shares(lost_answers=0.2)}
"""What the simulator of a process is like that is to be killed."""


def copy_of(ledger: Ledger) -> Copy:
    with ledger.read() as connection:
        return {table.name: [dict(row) for row in connection.execute(table.select()).mappings()] for table in _TABLES}


def restore(ledger: Ledger, copy: Copy) -> None:
    """As if the database had been put back."""
    with ledger.write() as connection:
        for table in reversed(_TABLES):
            connection.execute(sa.delete(table))
        for table in _TABLES:
            if copy[table.name]:
                connection.execute(sa.insert(table), list(copy[table.name]))


@dataclass
class JournalledWorld(World):
    """A world whose dispatches keep a journal, in which all clocks are the world's."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.claims = self.folder / "claims"

    def journal_of_claims(self) -> Journal:
        return Journal(self.claims, lambda: self.clock.wall)

    @override
    def dispatch(self, ledger: Ledger, provider: Any, **more: Any) -> Dispatched:
        self.clock.wall += timedelta(seconds=1)
        journal = self.journal_of_claims()
        recorder = Recorder(ledger, journal)
        try:
            hooks = {
                "before_post": recorder.before_post,
                "before_return": recorder.before_return,
                "was_posted": recorder.was_posted,
            }
            return super().dispatch(ledger, provider, **{**hooks, **more})
        finally:
            journal.close()

    def look(self, now: datetime = NOW) -> Hold | None:
        return restored.look(self.ledger, self.journal_of_claims(), now, keep=KEEP)

    def put_back(self) -> PutBack:
        return restored.put_back(self.ledger, self.journal_of_claims(), "Dr Grey", NOW)

    def resume(self) -> None:
        with self.ledger.write() as connection:
            controls.resume_all(connection, "Dr Grey", NOW)

    def reconcile(self) -> PutBack:
        """All that a person does after a copy was put back."""
        done = self.put_back()
        assert done.released
        self.resume()
        return done

    def process_with(self, provider: WatchedSimulator, happens: Happens) -> Dispatched:
        provider.happens = happens
        return self.dispatch(WatchedLedger.of(self.ledger, happens), provider)


class Unruly(WatchedSimulator):
    """A simulator that loses answers, puts calls off, and refuses some patients' messages with all that come along."""

    chance: random.Random
    refuses: frozenset[str] = frozenset()
    calm = False

    @override
    def send(self, chunk_reference: str, messages: Sequence[OutgoingMessage], now: datetime) -> Answer:
        refused = [RefusedMessage(each.reference, "NO") for each in messages if each.address in self.refuses]
        drawn = 1.0 if self.calm else self.chance.random()
        if drawn < 0.1:
            raise OutcomeUnknown("lost on its way there")
        if drawn < 0.2:
            raise NotTaken("later")
        if drawn < 0.25:
            raise ProviderStopped("not now")
        if refused:
            raise ChunkRefused(refused)
        answer = super().send(chunk_reference, messages, now)
        if drawn < 0.45:
            raise OutcomeUnknown("lost on its way back")
        return answer


def dispatch_with_journal(folder: Path, recovery: Recovery, progress: Any) -> None:
    """For a process of its own: sends the batch by the real clocks; counts in ``progress`` how often it told of any."""

    def tell(_done: int, _total: int) -> None:
        progress.value += 1

    ledger = open_ledger(folder)
    recorder = Recorder(ledger, Journal(folder / "claims"))
    simulator = Simulator(folder / "simulator.sqlite", recovery=recovery, **KILLED)
    dispatcher.dispatch(
        ledger,
        BATCH,
        providers(simulator),
        now=NOW,
        owner="to be killed",
        on_progress=tell,
        before_post=recorder.before_post,
        before_return=recorder.before_return,
        was_posted=recorder.was_posted,
    )
