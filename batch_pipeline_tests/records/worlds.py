"""A batch that was sent, a place to save it to, and runs that save it: in this process, or in one that is killed."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from batch_pipeline.ledger.engine import Ledger
from batch_pipeline.records.communication import Sender
from batch_pipeline.records.fhir_server import FhirAccount, FhirServer
from batch_pipeline.records.folder import RecordFolder
from batch_pipeline.records.pace import Pace
from batch_pipeline.records.saving import Messages, Run, Saved, Source
from batch_pipeline.records.writer import Writer, our_identifiers
from batch_pipeline_tests.ledger.given import BATCH, NOW, Recipient, begin, open_ledger, queue, set_attempts

SENDER = Sender("A99999", "Larkfield Surgery", ["1324681000000101"])
LATER = timedelta(hours=1)
"""Any lease is over by then."""


class SmallFolder(RecordFolder):
    """Few entries a file: many moments at which to die."""

    at_once = 4


class SmallServer(FhirServer):
    at_once = 4


@dataclass
class World:
    """A batch whose texts have all been delivered, in a new ledger."""

    ledger: Ledger
    root: Path

    @classmethod
    def of(cls, ledger: Ledger, root: Path, recipients: Sequence[Recipient]) -> "World":
        queue(ledger, recipients)
        begin(ledger, *(each.line for each in recipients))
        set_attempts(ledger, {"accepted_at": NOW, "delivered_at": NOW}, batch=BATCH)
        return cls(ledger, root / "records")

    def folder(self) -> RecordFolder:
        return SmallFolder(self.root)

    def run(
        self,
        writer: Writer | None = None,
        at: datetime = NOW,
        ahead: timedelta = timedelta(0),
        source: Source | None = None,
        **more: Any,
    ) -> Run:
        """``ahead``: how far this process's clock is before the real one; leases go by it."""
        return Run(
            ledger=self.ledger,
            batch=BATCH,
            source=source or Messages(SENDER),
            writer=writer or self.folder(),
            now=lambda: at,
            owner="a test",
            wall=lambda: datetime.now(UTC) + ahead,
            **more,
        )

    def save(self, writer: Writer | None = None, at: datetime = NOW, **more: Any) -> Saved:
        return self.run(writer, at, **more).save()

    def in_folder(self) -> Counter[str]:
        """How often each identifier is in the files; every line of every file is whole."""
        return in_folder(self.root)


def in_folder(root: Path) -> Counter[str]:
    files = [path for path in root.rglob("*") if path.is_file()]
    assert [path for path in files if path.name.startswith(".")] == []
    whole = [path.read_bytes() for path in files]
    assert all(each.endswith(b"\n") for each in whole)
    return Counter(our_identifiers(json.loads(line))[0] for each in whole for line in each.splitlines())


# In a process of its own ---------------------------------------------------------------------------------------------


def save_for_real(ledger_folder: Path, root: Path, base_url: str | None, hours_ahead: int, progress: Any) -> None:
    """Saves the batch, to files or to a server, and counts what it has written."""
    ledger = open_ledger(ledger_folder)
    ahead = hours_ahead * LATER

    def count(written: int) -> None:
        progress.value = written

    World(ledger, root).save(_writer(ledger, root, base_url), ahead=ahead, on_progress=count)
    ledger.close()


def _writer(ledger: Ledger, root: Path, base_url: str | None) -> Writer:
    if base_url is None:
        return SmallFolder(root)
    pace = Pace(ledger, "record:test", 60_000)
    return SmallServer(FhirAccount(base_url, token="a-bearer-token-of-nobody"), pace, timedelta(seconds=30))
