"""A home put to work: its settings, ledger, workspaces, providers and set-work connections in one hand.

Both ways in, the shell and Dagster, work through this, so that they can't disagree.
"""

import json
import os
import shutil
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Self

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from batch_pipeline.errors import Refused
from batch_pipeline.home import Home
from batch_pipeline.ingest.lists import ALL_CHANNELS, NO_ACCOUNTS, NO_OPT_OUTS, read_app_accounts, read_opt_outs
from batch_pipeline.ingest.slots import SlotsFile
from batch_pipeline.ledger import batches, due, history, pds_answers, snapshot
from batch_pipeline.ledger.engine import Ledger
from batch_pipeline.ledger.hashing import Hasher, hold_to_key, load_or_make_key
from batch_pipeline.ledger.journal import Journal
from batch_pipeline.planning.contact import Facts
from batch_pipeline.planning.duck import Database, database, duck, stage
from batch_pipeline.planning.plan import Snapshot
from batch_pipeline.providers.accounts import PROVIDERS, bounces_of
from batch_pipeline.providers.bounces import Bounces
from batch_pipeline.providers.protocol import Channel, Provider, ReceiptSource
from batch_pipeline.providers.simulator import Shares, Simulator
from batch_pipeline.questionnaires.form import Form
from batch_pipeline.questionnaires.library import Definition, kept_form
from batch_pipeline.records.accounts import writer_of
from batch_pipeline.records.writer import Writer
from batch_pipeline.rules import paths, policy
from batch_pipeline.rules.attachments import Attachment
from batch_pipeline.rules.links import LinkKeys
from batch_pipeline.sending import fallbacks, reminders
from batch_pipeline.sending.alerting import ByEmail, ByWebhook, Messenger
from batch_pipeline.sending.unread_news import UnreadNews
from batch_pipeline.settings import (
    BatchFile,
    Settings,
    SimulatorShares,
    Workspace,
    load_workspace,
    refuse_mixed_accounts,
    secret,
)
from batch_pipeline.templates import Message

_REFERENCES_IN_MAIL = "references in mail"
_ALERTS_TOKEN = "ALERTS_TOKEN"  # noqa: S105 - the variable's name
_STALE_STAGING = timedelta(days=1).total_seconds()


@dataclass(frozen=True)
class Submitted:
    """A batch as registered: its ledger row, its file and its workspace."""

    row: batches.Batch
    file: BatchFile
    message: Message
    """The words as they were when the batch was submitted: a template changed since changes nothing."""
    workspace: Workspace
    attachment: Attachment | None = None

    @property
    def snomed(self) -> tuple[str, ...]:
        """The SNOMED CT codes that the message is kept in the record with: the batch file's, else the template's."""
        return self.file.message.snomed or self.message.snomed

    @property
    def content(self) -> str:
        """What was submitted. Tables made from another content are another plan's."""
        return content_of(self.row)


ORIGIN = "origin"
"""What a table's file notes the content it was made from under."""


def content_of(submitted: batches.Batch | batches.Submission) -> str:
    """Batch file with its words, and cohort, as one name for their content."""
    return f"{submitted.spec_sha256}:{submitted.cohort_sha256}"


class House:
    """One home folder at work. Cheap to make; opens what it needs when it is needed."""

    def __init__(self, home: Home, settings: Settings | None = None) -> None:
        self.home = home
        self.settings = settings or Settings()
        self._keeping: ExitStack | None = None
        self._database: Database | None = None

    @cached_property
    def ledger(self) -> Ledger:
        """The operational truth."""
        self.home.require()
        ledger = Ledger.open(self.settings.ledger_url or self.home.ledger_url)
        hold_to_key(ledger, self.hasher)
        return ledger

    @cached_property
    def journal(self) -> Journal:
        """What was about to be posted, outside the ledger."""
        chosen = self.settings.claims
        return Journal(self.home.claims if chosen is None else chosen.expanduser().absolute())

    @cached_property
    def hasher(self) -> Hasher:
        """The keyed hash of NHS numbers and phone numbers."""
        return Hasher(load_or_make_key(self.home.hash_key_path))

    @cached_property
    def link_keys(self) -> LinkKeys:
        """The keys of patients' links, none of which tells of another, or of the key that they come from."""
        key_for = self.hasher.key_for
        return LinkKeys(
            tokens=key_for("link tokens"), births=key_for("dates of birth of links"), sessions=key_for("link sessions")
        )

    def workspace(self, workspace_id: str) -> Workspace:
        """The workspace of that id; ``Refused`` for none or a faulty one."""
        return load_workspace(self.home, workspace_id)

    def submitted(self, batch: str) -> Submitted:
        """A registered batch; ``Refused`` for one that isn't."""
        with self.ledger.read() as connection:
            row = batches.get(connection, batch)
        spec = json.loads(row.spec)
        file = BatchFile.model_validate(spec["batch_file"])
        attachment = Attachment(**spec["attachment"]) if "attachment" in spec else None
        return Submitted(row, file, Message.of_dict(spec["message"]), self.workspace(file.workspace), attachment)

    def kept_cohort(self, sha256: str) -> Path:
        """Where a submitted cohort is kept, byte for byte, under its SHA-256."""
        return self.home.kept_cohorts / f"{sha256}.csv"

    def kept_attachment(self, sha256: str) -> Path:
        """Where the file that goes with a batch is kept, byte for byte, under its SHA-256."""
        return self.home.kept_attachments / sha256

    def keep_questionnaire(self, questionnaire: Definition) -> None:
        """Keeps it for the batches that ask it, under its SHA-256."""
        self._keep(self._kept_questionnaire(questionnaire.sha256), questionnaire.text)

    def keep_slots(self, found: SlotsFile) -> None:
        """Keeps the file that slots came from, under its SHA-256, for whoever asks later what was offered."""
        self._keep((self.home.kept_slots / found.sha256).with_suffix(Path(found.name).suffix), found.text)

    def _keep(self, kept: Path, text: str) -> None:
        if kept.exists():
            return
        kept.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with self.staging() as folder:
            part = folder / kept.name
            part.touch(mode=0o600)
            with part.open("w", encoding="utf-8", newline="") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            part.replace(kept)

    def form(self, submitted: Submitted) -> Form | None:
        """What a batch asks, as it was when it was submitted; ``None`` for a batch that asks nothing."""
        asks = json.loads(submitted.row.spec).get("questionnaire")
        return None if asks is None else self.kept_form(asks["sha256"], asks["id"])

    def kept_form(self, sha256: str, form_id: str) -> Form:
        """A kept questionnaire as a form."""
        return kept_form(self._kept_questionnaire(sha256).read_text("utf-8"), form_id)

    def _kept_questionnaire(self, sha256: str) -> Path:
        return self.home.kept_questionnaires / f"{sha256}.json"

    def table(self, asset: str, batch: str) -> Path:
        """Where the table of an asset stands; one that hasn't been made isn't there."""
        return self.home.data / asset / f"{batch}.parquet"

    def duck(self) -> AbstractContextManager[duckdb.DuckDBPyConnection]:
        """A DuckDB connection for one stage: to a database of its own, or to the one that is kept."""
        chosen = (self._staging, self.settings.duckdb_memory_limit, self.settings.duckdb_threads)
        if self._keeping is None:
            return duck(*chosen)
        if self._database is None:
            self._database = self._keeping.enter_context(database(*chosen))
        return stage(self._database)

    @contextmanager
    def kept(self) -> Iterator[Self]:
        """The same house, with one DuckDB and one ledger for all that is done inside, such as the steps of a run.

        Each is opened when it is first needed. To do so at every step took a plan 0.4 s, whatever its size.
        """
        with ExitStack() as keeping:
            self._keeping = keeping
            try:
                yield self
            finally:
                self._keeping, self._database = None, None
                if "ledger" in vars(self):
                    self.ledger.close()

    @contextmanager
    def staging(self) -> Iterator[Path]:
        """A folder on the data's own disk for tables that aren't finished; gone at the end, whatever happens."""
        self._staging.mkdir(parents=True, exist_ok=True, mode=0o700)
        for left in self._staging.iterdir():  # by a process that was killed
            with suppress(FileNotFoundError):  # its owner has just ended
                if time.time() - left.stat().st_mtime > _STALE_STAGING:
                    shutil.rmtree(left, ignore_errors=True)
        with TemporaryDirectory(dir=self._staging, prefix="stage-") as folder:
            yield Path(folder)

    @property
    def _staging(self) -> Path:
        return self.home.data / ".staging"

    @contextmanager
    def providers(self, workspace: Workspace) -> Iterator[Mapping[Channel, Provider]]:
        """The provider of each channel of a workspace; their connections are closed at the end.

        ``Refused`` for one that can't be made, such as for want of a key.
        """
        with ExitStack() as stack:
            made = dict[str, Provider]()
            for name in sorted(set(workspace.providers.names.values())):
                made[name] = self._provider(name, workspace)
                stack.callback(made[name].close)
            chosen = workspace.providers
            yield {"email": made[chosen.email], "nhs_app": made[chosen.nhs_app], "sms": made[chosen.sms]}

    def check_providers(self, workspace: Workspace) -> None:
        """``Refused`` where a provider can't be made, its keys are another's, or no bounce could ever be found.

        The last is asked before a batch is taken in, and not at each sending: a mailbox that is gone for an hour
        holds nobody's message back.
        """
        refuse_mixed_accounts(self.home)
        with self.providers(workspace), self.record_writer(workspace), self.messenger(workspace):
            pass
        if (box := self.bounces(workspace)) is not None:
            box.check()

    @contextmanager
    def record_writer(self, workspace: Workspace) -> Iterator[Writer]:
        """Where a workspace's messages are saved; its connections are closed at the end. ``Refused`` as ``providers``."""
        writer = writer_of(workspace, self.home.records, lambda: self.ledger)
        try:
            yield writer
        finally:
            writer.close()

    @contextmanager
    def messenger(self, workspace: Workspace) -> Iterator[Messenger | None]:
        """Who tells the practice of answers that can't wait; ``None`` where the workspace names nobody."""
        chosen = workspace.alerts
        if chosen is None:
            yield None
            return
        if chosen.email is not None:
            relay = PROVIDERS["smtp"](workspace, self.hasher.key_for(_REFERENCES_IN_MAIL))
            messenger: Messenger = ByEmail(relay, chosen.email)
        else:
            token = None if chosen.credentials is None else secret(chosen.credentials, _ALERTS_TOKEN)
            messenger = ByWebhook(chosen.webhook or "", token, chosen.timeout)
        try:
            yield messenger
        finally:
            messenger.close()

    def receipt_sources(self, workspace: Workspace) -> list[ReceiptSource]:
        """Where receipts wait to be fetched; no key for sending is needed.

        Of all that the workspace describes, whether or not it sends by it now: what was sent is still told of.
        """
        found: list[ReceiptSource] = [UnreadNews(self.ledger)]
        if self.home.simulator_path.exists():
            found.append(Simulator(self.home.simulator_path))
        if (box := self.bounces(workspace)) is not None:
            found.append(box)
        return found

    def bounces(self, workspace: Workspace) -> Bounces | None:
        """The mailbox of the workspace's bounces, if it names one."""
        return bounces_of(workspace, self.hasher.key_for(_REFERENCES_IN_MAIL))

    def bounces_wait(self, workspace_id: str) -> bool:
        """Whether mail lies in a workspace's mailbox that wasn't looked at. Opens no mail, and no connection."""
        try:
            box = self.bounces(self.workspace(workspace_id))
        except Refused:  # a faulty workspace file is told of by whoever needs it
            return False
        return box is not None and box.waiting()

    def _provider(self, name: str, workspace: Workspace) -> Provider:
        if name == "simulator":
            return self.simulator(workspace)
        return PROVIDERS[name](workspace, self.hasher.key_for(_REFERENCES_IN_MAIL))

    def simulator(self, workspace: Workspace) -> Simulator:
        """The workspace's simulator. All of a home keep one journal."""
        chosen = workspace.simulator
        simulator = Simulator(
            self.home.simulator_path,
            seed=chosen.seed,
            outcomes=chosen.outcomes,
            shares=_shares(chosen.shares),
            chunk=self.settings.simulator_chunk,
            timeout=timedelta(seconds=self.settings.simulator_timeout_seconds),
        )
        simulator.check()
        return simulator

    def simulator_news(self, now: datetime) -> set[str]:
        """Batches of which the simulator has something to tell."""
        if not self.home.simulator_path.exists():
            return set()
        simulator = Simulator(self.home.simulator_path)
        with self.ledger.read() as connection:
            return due.of_references(connection, simulator.name, simulator.waiting_references(now))

    def snapshot(self, workspace: Workspace, now: datetime) -> tuple[Snapshot, pa.Table]:
        """The NHS App snapshot, and the accounts in it whatever its age: one that is too old counts for nobody."""
        chosen = workspace.nhs_app_accounts
        if chosen is None or not paths.app_is_open(workspace.organisation_type, workspace.nation):
            return Snapshot("none", None), NO_ACCOUNTS
        if chosen.path is None or chosen.as_of is None:
            return self._fetched_snapshot(workspace, now)
        state = policy.snapshot_state(chosen.as_of, now, workspace.zone)
        return Snapshot(state, chosen.as_of.isoformat()), read_app_accounts(chosen.path)

    def _fetched_snapshot(self, workspace: Workspace, now: datetime) -> tuple[Snapshot, pa.Table]:
        """That of the newest day that was fetched; as unknown as one that is too old while there is none."""
        newest = max(self.fetched_app_accounts(workspace.ods_code), default=None)
        if newest is None:
            return Snapshot("unknown", None), NO_ACCOUNTS
        day = date.fromisoformat(newest.stem)
        return Snapshot(policy.snapshot_state(day, now, workspace.zone), day.isoformat()), pq.read_table(newest)

    def app_accounts_of(self, ods_code: str, day: date) -> Path:
        """Where a practice's NHS App accounts as of a day stand, once they are fetched."""
        return self.home.data / "nhs_app_accounts" / ods_code / f"{day.isoformat()}.parquet"

    def fetched_app_accounts(self, ods_code: str) -> list[Path]:
        """A practice's NHS App accounts of each day that is kept."""
        return list((self.home.data / "nhs_app_accounts" / ods_code).glob("*.parquet"))

    def opt_outs(self, workspace: Workspace, now: datetime) -> pa.Table:
        """``nhs_number, channel`` of the workspace's opt-out list as of ``now``."""
        if workspace.opt_outs is None:
            return NO_OPT_OUTS
        return read_opt_outs(workspace.opt_outs.path, now, workspace.zone)

    def already_had(self, submitted: Submitted, now: datetime) -> Collection[str]:
        """Keyed hashes of patients who had this message from this workspace in the last 30 days (SPEC 2.1)."""
        row = submitted.row
        if row.allow_repeat:
            return frozenset()
        with self.ledger.read() as connection:
            return history.already_had(
                connection, row.workspace, row.message_key, policy.repeat_since(now), except_batch=row.batch
            )

    def not_to_be_sent(self, workspace: Workspace, now: datetime) -> dict[str, set[str]]:
        """By channel, keyed hashes of the patients who opted out of it by ``now``, died, or are marked otherwise.

        Whoever PDS knows by another number as well is named by all of them.
        """
        with self.ledger.read() as connection:
            marked = set(history.marked(connection))
            same = pds_answers.same_people(connection, workspace.id, self.hasher.hash)
        found: dict[str, set[str]] = {"email": set(marked), "nhs_app": set(marked), "sms": set(marked)}
        out = self.opt_outs(workspace, now)
        for number, channel in zip(out["nhs_number"].to_pylist(), out["channel"].to_pylist(), strict=True):
            for path, patients in found.items():
                if channel in {path, ALL_CHANNELS}:
                    patients.add(self.hasher.hash(number))
        return {path: _under_every_number(patients, same) for path, patients in found.items()}

    def fallback_facts(self, workspace: Workspace, now: datetime) -> fallbacks.FallbackFacts:
        """What is asked again of a patient at the moment a fallback is due."""
        out = self.opt_outs(workspace, now)
        sms = [
            number
            for number, channel in zip(out["nhs_number"].to_pylist(), out["channel"].to_pylist(), strict=True)
            if channel in {"sms", ALL_CHANNELS}
        ]
        with self.ledger.read() as connection:
            deceased = {patient for patient, mark in history.marked(connection).items() if mark == "deceased"}
            same = pds_answers.same_people(connection, workspace.id, self.hasher.hash)
        return fallbacks.FallbackFacts(
            provider=workspace.providers.sms,
            opted_out=_under_every_number({self.hasher.hash(number) for number in sms}, same),
            deceased=_under_every_number(deceased, same),
            likely_to_fail=self._failed_numbers(workspace, now),
        )

    def reminder_facts(self, workspace: Workspace, now: datetime) -> reminders.ReminderFacts:
        """What is asked again of a patient at the moment a reminder is due."""
        return reminders.ReminderFacts(
            providers=workspace.providers.names,
            not_to_be_sent=self.not_to_be_sent(workspace, now),
            likely_to_fail=self._failed_numbers(workspace, now),
        )

    def _failed_numbers(self, workspace: Workspace, now: datetime) -> Collection[str]:
        if not workspace.exclude_likely_to_fail:
            return frozenset()
        with self.ledger.read() as connection:
            return history.failed_numbers(connection, policy.likely_to_fail_since(now, workspace.zone))

    def facts(self, submitted: Submitted, accounts: pa.Table, now: datetime) -> Facts:
        """What is known of a batch's patients besides the file."""
        workspace = submitted.workspace
        with self.ledger.read() as connection:
            marks = history.marked(connection)
            marked_by_pds = pds_answers.marked_by_look_ups(connection)
            begun = snapshot.read_begun(connection, submitted.row.batch)
        return Facts(
            app_accounts=accounts,
            opt_outs=self.opt_outs(workspace, now),
            marks=marks,
            failed_numbers=self._failed_numbers(workspace, now),
            begun=begun,
            marked_by_pds=marked_by_pds,
        )


def _under_every_number(patients: set[str], same: Mapping[str, set[str]]) -> set[str]:
    return patients.union(*(same[patient] for patient in patients & same.keys()))


def _shares(chosen: SimulatorShares) -> Shares:
    channels: tuple[Channel, ...] = ("email", "nhs_app", "sms")
    return Shares(
        outcomes={channel: getattr(chosen, channel).model_dump() for channel in channels},
        lost_answers=chosen.lost_answers,
        repeated_receipts=chosen.repeated_receipts,
        shuffled_receipts=chosen.shuffled_receipts,
    )


def owner() -> str:
    """Who holds a lease: this process, so that a person can find it."""
    return f"{os.uname().nodename}:{os.getpid()}"
