"""A surgery whose ledger was restored from a backup: paused, reconciled from the shell, and nobody hears twice."""

import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from itertools import count
from pathlib import Path

import pytest
import sqlalchemy as sa

from batch_pipeline.house import House
from batch_pipeline.ledger.tables import facts
from batch_pipeline.operations import restoring
from batch_pipeline.providers.protocol import Recovery
from batch_pipeline.providers.simulator import Simulator
from batch_pipeline_tests.e2e.surgery import Surgery, T, by_email, by_sms, hours, numbered
from batch_pipeline_tests.sending.copies import copy_of, restore

Restores = Callable[[], None]
on_sqlite_alone = pytest.mark.parametrize("surgery_database", ["sqlite"], indirect=True)
"""For what a ledger tells by its audit: ``restore`` can't take that back on PostgreSQL, as nothing of it can be deleted."""
_numbers = count()


def backup(surgery: Surgery) -> Restores:
    """A copy of the ledger as the documentation says to make one; gives what puts it back."""
    house = surgery.house
    if house.ledger.dialect != "sqlite":
        copy = copy_of(house.ledger)
        return lambda: restore(house.ledger, copy)
    ledger, kept = surgery.home.ledger_path, surgery.root / f"backup-{next(_numbers)}.sqlite"
    with closing(sqlite3.connect(ledger)) as source, closing(sqlite3.connect(kept)) as copied:
        source.backup(copied)

    def put_back() -> None:
        for left in surgery.home.root.glob("ledger.sqlite*"):
            left.unlink()
        shutil.copy(kept, ledger)

    return put_back


def approved(surgery: Surgery, batch: str = "flu", people: range = range(1, 8)) -> Path:
    spec = surgery.batch(batch, numbered(by_sms, people))
    surgery.done("submit", spec, at=T)
    surgery.done("approve", batch, "--by", "Dr Test", at=T)
    return spec


def test_a_restored_ledger_starts_paused_is_reconciled_and_sends_each_message_once(
    surgery: Surgery, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BATCH_PIPELINE_SIMULATOR_CHUNK", "3")
    approved(surgery)
    before = backup(surgery)
    # the outbox is written, nothing is sent, then all
    surgery.done("pause", "flu", "--by", "Dr Grey", at=T)
    surgery.done("dispatch", "flu", at=T)
    surgery.done("resume", "flu", "--by", "Dr Grey", at=T)
    in_between = backup(surgery)
    surgery.done("dispatch", "flu", at=T)
    sent = surgery.sent_once()
    assert len(sent) == 7

    in_between()
    refusal = surgery.refused("dispatch", at=T)
    assert "the claims journal has 3 chunks that the ledger doesn't know (batches flu)" in refusal
    assert "batch-pipeline reconcile --by NAME" in refusal
    shown = surgery.done("status", "flu", at=T)
    assert "nothing is sent: the claims journal" in shown.err
    assert "all batches are paused by restored ledger" in shown.words
    surgery.status("flu", awaiting=7)
    assert "reconcile" in surgery.refused("resume", "--all", "--by", "Dr Grey", at=T)
    assert surgery.done("dispatch", at=T).out == "nothing is waiting to be sent\n"
    assert "say who decides" in surgery.refused("reconcile", "--by", "restored ledger")

    said = surgery.done("reconcile", "--by", "Dr Grey", at=T).out
    assert "put back: 7 messages in 3 chunks" in said
    assert "`batch-pipeline resume --all --by NAME`" in said
    assert surgery.done("dispatch", at=T).out == "nothing is waiting to be sent\n"
    surgery.done("resume", "--all", "--by", "Dr Grey", at=T)
    surgery.done("dispatch", at=T)
    surgery.done("sweep", at=T + hours(1))
    assert surgery.sent_once() == sent
    surgery.status("flu", status="Done", delivered=7)

    # and from a copy of before there was an outbox: it is to be written again, which sends nothing
    before()
    assert "reconcile" in surgery.done("status", at=T).err
    said = surgery.shell("reconcile", "--by", "Dr Grey", at=T)
    assert said.code == 1
    assert "flu: 3 chunks were sent, and the ledger has no outbox of it: submit the same files" in said.out
    assert "nothing is sent" in surgery.refused("dispatch", "flu", at=T)
    surgery.done("reconcile", "--by", "Dr Grey", at=T)
    surgery.done("resume", "--all", "--by", "Dr Grey", at=T)
    surgery.done("dispatch", at=T)
    surgery.done("sweep", at=T + hours(1))
    assert surgery.sent_once() == sent
    surgery.status("flu", awaiting=7)  # its receipts were fetched by the ledger that was lost


@on_sqlite_alone
def test_what_was_cancelled_since_the_copy_does_not_go_out(surgery: Surgery) -> None:
    approved(surgery)
    put_back = backup(surgery)
    surgery.done("cancel", "flu", "--by", "Dr Grey", at=T)
    put_back()
    refusal = surgery.refused("dispatch", at=T)
    assert "has forgotten what was decided since (pauses, cancellations, revoked links)" in refusal
    assert "then decide that again, before `batch-pipeline resume --all --by NAME`" in refusal
    surgery.done("reconcile", "--by", "Dr Grey", at=T)
    surgery.done("cancel", "flu", "--by", "Dr Grey", at=T)
    surgery.done("resume", "--all", "--by", "Dr Grey", at=T)
    surgery.done("dispatch", at=T)
    assert surgery.journal() == {}


def test_who_says_that_the_journal_was_restored_too_is_believed_whatever_it_tells(
    surgery: Surgery, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A copy of the whole home, in which the journal was copied a moment after the ledger."""
    monkeypatch.setenv("BATCH_PIPELINE_SIMULATOR_CHUNK", "3")
    approved(surgery)
    surgery.done("pause", "flu", "--by", "Dr Grey", at=T)
    surgery.done("dispatch", "flu", at=T)
    surgery.done("resume", "flu", "--by", "Dr Grey", at=T)
    put_back = backup(surgery)
    surgery.done("dispatch", at=T)
    sent = surgery.sent_once()
    put_back()
    (file,) = surgery.home.claims.glob("*.claims")
    file.write_bytes(file.read_bytes().splitlines(keepends=True)[0])
    assert "has 1 chunks that the ledger doesn't know" in surgery.done("status", at=T).err
    said = surgery.done("reconcile", "--without-journal", "--by", "Dr Grey", at=T).out
    assert "put back: 3 messages in 1 chunks" in said
    assert "flu: 4 messages nobody can tell of: unconfirmed" in said
    surgery.done("resume", "--all", "--by", "Dr Grey", at=T)
    surgery.done("dispatch", at=T)
    assert surgery.sent_once() == sent


@pytest.mark.slow
def test_fallbacks_that_were_forgotten_are_put_back(surgery: Surgery) -> None:
    unread = by_sms(1)
    surgery.app_users(unread)
    surgery.fate(unread, "nhs_app", "silent")
    surgery.send(surgery.batch("flu", [unread, by_email(2)]))
    put_back = backup(surgery)
    surgery.done("sweep", at=T + hours(24))
    assert "flu:2:fallback" in surgery.sent_once()

    put_back()
    assert "reconcile" in surgery.refused("sweep", at=T + hours(25))
    assert "put back: 1 messages in 1 chunks" in surgery.done("reconcile", "--by", "Dr Grey", at=T + hours(25)).out
    surgery.done("resume", "--all", "--by", "Dr Grey", at=T + hours(25))
    for hour in (25, 26, 50):
        surgery.done("sweep", at=T + hours(hour))
    assert len(surgery.sent_once()) == 3
    surgery.status("flu", fallback_sent=1)


class Askable(Simulator):
    recovery = Recovery.CAN_BE_ASKED  # pyright: ignore[reportAssignmentType, reportIncompatibleMethodOverride]


@pytest.mark.parametrize("askable", [pytest.param(True, marks=pytest.mark.slow), False])
def test_without_the_journal_providers_are_asked_and_persons(
    surgery: Surgery, monkeypatch: pytest.MonkeyPatch, askable: bool
) -> None:
    if askable:
        monkeypatch.setattr(House, "simulator", lambda house, _: Askable(house.home.simulator_path))
    approved(surgery, "earlier", range(8, 10))
    surgery.done("dispatch", at=T)
    approved(surgery)
    surgery.done("pause", "flu", "--by", "Dr Grey", at=T)
    surgery.done("dispatch", "flu", at=T)
    surgery.done("resume", "flu", "--by", "Dr Grey", at=T)
    surgery.done("status", at=T)
    put_back = backup(surgery)
    surgery.done("dispatch", at=T)
    sent = surgery.sent_once()

    put_back()
    shutil.rmtree(surgery.home.claims)
    assert "1 files are gone or shorter than they were" in surgery.refused("dispatch", at=T)
    said = surgery.shell("reconcile", "--by", "Dr Grey", at=T)
    assert (said.code, "gone or shorter" in said.out) == (1, True)
    said = surgery.done("reconcile", "--without-journal", "--by", "Dr Grey", at=T).out
    surgery.done("resume", "--all", "--by", "Dr Grey", at=T)
    surgery.done("dispatch", at=T)
    assert surgery.sent_once() == sent
    if askable:
        assert "asked of their providers: 7 messages were sent, 0 were not" in said
        surgery.status("flu", awaiting=7)
    else:
        assert "flu: 7 messages nobody can tell of: unconfirmed; see `batch-pipeline resolve flu`" in said
        surgery.status("flu", unconfirmed=7)
        surgery.done("resolve", "flu", "--sent", "--by", "Dr Grey", at=T)
        surgery.status("flu", awaiting=7)


@pytest.mark.slow
def test_without_the_journal_a_provider_is_believed_when_it_has_nothing(
    surgery: Surgery, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(House, "simulator", lambda house, _: Askable(house.home.simulator_path))
    approved(surgery)
    surgery.done("pause", "flu", "--by", "Dr Grey", at=T)
    surgery.done("dispatch", "flu", at=T)
    surgery.done("resume", "flu", "--by", "Dr Grey", at=T)
    # nobody noticed: a person says so
    said = surgery.done("reconcile", "--without-journal", "--by", "Dr Grey", at=T).out
    assert "asked of their providers: 0 messages were sent, 7 were not" in said
    surgery.done("resume", "--all", "--by", "Dr Grey", at=T)
    surgery.done("dispatch", at=T)
    assert len(surgery.sent_once()) == 7


@pytest.mark.slow
def test_the_journal_of_another_ledger_is_refused(
    surgery: Surgery, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    approved(surgery)
    surgery.done("dispatch", at=T)
    other = Surgery(tmp_path / "other")
    monkeypatch.delenv("LEDGER_URL", raising=False)
    approved(other)
    other.done("dispatch", at=T)
    monkeypatch.setenv("BATCH_PIPELINE_CLAIMS", str(surgery.home.claims))
    approved(other, "covid", range(20, 23))
    assert "is another ledger's: set LEDGER_URL or BATCH_PIPELINE_CLAIMS right" in other.refused("dispatch", at=T)
    assert "is another ledger's" in other.done("status", at=T).err


@pytest.mark.slow
def test_a_journal_that_cant_be_written_sends_nothing(surgery: Surgery, monkeypatch: pytest.MonkeyPatch) -> None:
    approved(surgery)
    surgery.home.claims.write_text("not a folder")
    assert "claims" in surgery.refused("dispatch", at=T)
    assert surgery.journal() == {}
    surgery.home.claims.unlink()
    surgery.done("dispatch", at=T)
    assert len(surgery.sent_once()) == 7


@pytest.mark.slow
def test_old_files_are_thrown_away_and_an_older_ledger_notices(surgery: Surgery) -> None:
    approved(surgery)
    put_back = backup(surgery)
    surgery.done("dispatch", at=T)
    (file,) = surgery.home.claims.glob("*.claims")
    old = file.rename(file.with_name("2020-01-01" + file.name[10:]))
    surgery.done("status", at=T)
    with surgery.house.ledger.write() as connection:  # as if it had been looked at in those days
        fact = sa.update(facts).where(facts.c.name == f"journal/{old.name}")
        connection.execute(fact.values(value=f"{old.stat().st_size} 2020-01-01"))
    approved(surgery, "covid", range(20, 23))
    surgery.done("dispatch", at=T)
    shutil.copy(file, file.with_name("2026-01-01" + file.name[10:]))
    assert restoring.look(surgery.house, T) is None
    names = sorted(path.name[:10] for path in surgery.home.claims.iterdir())
    assert names == ["2026-01-01", file.name[:10], "decided", "pruned"]
    put_back()
    assert "older than what the claims journal" in surgery.refused("dispatch", at=T)
