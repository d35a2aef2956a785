"""A cohort planned through the real functions, stage by stage: what the tests of planning start from."""

import csv
import io
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime
from decimal import Decimal
from functools import cached_property
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from batch_pipeline.ingest.lists import NO_ACCOUNTS, NO_OPT_OUTS
from batch_pipeline.ingest.reader import open_cohort
from batch_pipeline.operations.submission import read_into
from batch_pipeline.planning.channels import assign, queue
from batch_pipeline.planning.contact import ContactFiles, Contacts, Facts, Organisation, assess
from batch_pipeline.planning.details import LookedUp, write_details
from batch_pipeline.planning.duck import scan
from batch_pipeline.planning.message import Message
from batch_pipeline.planning.patients import PatientFiles, Sorted, sort_lines
from batch_pipeline.planning.plan import PlanFiles, Sender, Snapshot, draw_up, plan_hash
from batch_pipeline.rules.conditional_text import Writer, as_it_is
from batch_pipeline.rules.costs import Prices
from batch_pipeline_tests.ledger.given import HASHER, nhs_number

NOW = datetime(2026, 10, 1, 9, tzinfo=UTC)
TODAY = date(2026, 10, 1)
AS_OF = "2026-09-30"
GP = Organisation("gp", "england")
NON_GP = Organisation("non_gp", "england")
PRICES = Prices("GBP", sms_fragment=Decimal("0.02"), email=Decimal("0.001"), nhs_app=Decimal("0.005"))
CELLS = {
    "nhs_number": "NHS Number",
    "patient_name": "Patient Name",
    "date_of_birth": "Date of Birth",
    "mobile": "Mobile number",
    "preferred": "Preferred telephone number",
    "telephone": "Telephone Number",
    "email": "Email",
    "date_of_death": "Date of Death",
    "deceased": "Deceased",
}
"""Headings of the cohorts here."""

_database = duckdb.connect()


def connection() -> duckdb.DuckDBPyConnection:
    """As a stage gets one, with no tables but its own; much quicker to make."""
    return _database.cursor()


def mobile(number: int) -> str:
    """A mobile of the fictional range, as people write it."""
    return f"07700 900{number % 1000:03d}"


def e164(number: int) -> str:
    return f"+447700900{number % 1000:03d}"


def patient(number: int, **cells: str) -> dict[str, str]:
    """A line of a cohort with an NHS number, a name and a date of birth, and the cells given by ``CELLS`` or heading."""
    known = {"nhs_number": nhs_number(number), "patient_name": "GREEN, Ash", "date_of_birth": "31/01/1980"}
    return {CELLS.get(name, name): cell for name, cell in {**known, **cells}.items()}


def csv_text(lines: Iterable[Mapping[str, str]], headings: Sequence[str] | None = None) -> str:
    """A file of these lines; its headings are those that some line uses unless they are given. Its first line is 2."""
    rows = list(lines)
    wanted = headings or list(dict.fromkeys((*CELLS.values(), *(name for row in rows for name in row))))
    text = io.StringIO()
    writer = csv.DictWriter(text, wanted, restval="")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def accounts(*notified: int, off: Sequence[int] = ()) -> pa.Table:
    """Patients with the NHS App, by number."""
    rows = [(nhs_number(number), True) for number in notified] + [(nhs_number(number), False) for number in off]
    return pa.table(
        {
            "nhs_number": pa.array([number for number, _ in rows], pa.string()),
            "notifications_enabled": pa.array([on for _, on in rows], pa.bool_()),
        }
    )


def opt_outs(*out: tuple[int, str]) -> pa.Table:
    """``(number, channel or all)``."""
    return pa.table(
        {
            "nhs_number": pa.array([nhs_number(number) for number, _ in out], pa.string()),
            "channel": pa.array([channel for _, channel in out], pa.string()),
        }
    )


def facts(
    app: pa.Table = NO_ACCOUNTS,
    out: pa.Table = NO_OPT_OUTS,
    marks: Mapping[int, str] | None = None,
    failed: Collection[int] = (),
    begun: Sequence[Mapping[str, str | None]] = (),
) -> Facts:
    """What is known besides the file; patients and numbers as their hashes."""
    more: dict[str, Any] = {"begun": pa.Table.from_pylist(list(begun), schema=_BEGUN)} if begun else {}
    return Facts(
        app_accounts=app,
        opt_outs=out,
        marks={HASHER.hash(nhs_number(number)): mark for number, mark in (marks or {}).items()},
        failed_numbers=frozenset(HASHER.hash(e164(number)) for number in failed),
        **more,
    )


_BEGUN = pa.schema([(name, pa.string()) for name in ("patient", "channel", "address", "fallback_number")])


def rows(path: Path) -> list[dict[str, Any]]:
    """A table's rows in the order of their lines."""
    found = connection().sql(f"FROM {scan(path)} ORDER BY line").to_arrow_table()
    return found.to_pylist()


@dataclass
class Planned:
    """A cohort on its way through planning; each stage runs when it is first asked for."""

    folder: Path
    text: str | bytes
    organisation: Organisation = GP
    message_type: str = "simple"
    body: str = "Your flu jab is due."
    subject: str = "Flu jab"
    organisation_name: str = "Riverside Surgery"
    facts: Facts = field(default_factory=facts)
    snapshot: Snapshot = field(default_factory=lambda: Snapshot("current", AS_OF))
    already_had: Collection[str] = ()
    needs_date_of_birth: bool = False
    workspace: str = "riverside"
    questionnaire: str | None = None
    prices: Prices = PRICES
    problems: Sequence[str] = ()
    looked_up: Sequence[LookedUp] = ()
    link: str | None = None
    bodies: Mapping[str, str] = field(default_factory=dict[str, str])
    email_written: Writer = as_it_is
    reminds: bool = False

    @property
    def files(self) -> PlanFiles:
        names = ("cohort", "patients", "rejected_rows", "duplicates", "details", "non_contactable", "channel_plan")
        return PlanFiles(*(self.folder / name for name in names))

    @property
    def contact_files(self) -> ContactFiles:
        return ContactFiles(self.folder / "contactability", self.folder / "recipients", self.files.non_contactable)

    def again(self, folder: Path, **changes: Any) -> "Planned":
        """The same lines, read and sorted once, planned in another way."""
        other = replace(self, folder=folder, **changes)
        other.__dict__.update(read=self.read, sorted=self.sorted)
        for name in ("cohort", "patients", "rejected_rows", "duplicates"):
            (folder / name).hardlink_to(self.folder / name)
        return other

    @cached_property
    def read(self) -> int:
        """The number of data lines, read to Parquet."""
        path = self.folder / "cohort.csv"
        path.write_bytes(self.text if isinstance(self.text, bytes) else self.text.encode())
        _, lines = read_into(open_cohort(path, label="cohort.csv", max_bytes=1_000_000), self.folder)
        return lines

    @cached_property
    def sorted(self) -> Sorted:
        assert self.read
        files = PatientFiles(self.files.patients, self.files.rejected_rows, self.files.duplicates)
        return sort_lines(
            connection(), self.files.cohort, files, today=TODAY, needs_date_of_birth=self.needs_date_of_birth
        )

    @cached_property
    def assessed(self) -> Contacts:
        assert self.sorted
        write_details(connection(), self.files.patients, self.looked_up, self.files.pds_details)
        return assess(
            connection(),
            self.files.patients,
            self.files.pds_details,
            self.contact_files,
            organisation=self.organisation,
            message_type=self.message_type,
            facts=self.facts,
            hasher=HASHER,
        )

    @cached_property
    def message(self) -> Message:
        assert self.read
        columns = [row[0] for row in connection().sql(f"DESCRIBE FROM {scan(self.files.cohort)}").fetchall()]
        return Message.of(
            self.body,
            self.subject,
            self.organisation_name,
            columns,
            bodies=self.bodies,
            link=self.link,
            email_written=self.email_written,
            reminds=self.reminds,
        )

    @cached_property
    def assigned(self) -> Path:
        assert self.assessed
        assign(
            connection(),
            self.contact_files.recipients,
            self.files.patients,
            self.files.cohort,
            self.files.channel_plan,
            message=self.message,
            snapshot=self.snapshot.as_of,
            already_had=self.already_had,
            hasher=HASHER,
        )
        return self.files.channel_plan

    @cached_property
    def figures(self) -> dict[str, Any]:
        assert self.assigned
        sender = Sender(
            workspace=self.workspace,
            message_type=self.message_type,
            questionnaire=self.questionnaire,
            message_key="body:1",
            snomed=(),
            providers=dict.fromkeys(("email", "nhs_app", "sms"), "simulator"),
            prices=self.prices,
            problems=self.problems,
        )
        return draw_up(connection(), self.files, sender=sender, message=self.message, snapshot=self.snapshot, now=NOW)

    @cached_property
    def hash(self) -> str:
        return plan_hash(self.figures, spec_sha256="spec", cohort_sha256="cohort")

    @cached_property
    def queued(self) -> tuple[str, dict[int, dict[str, Any]]]:
        """The outbox's digest, and its rows by line."""
        con = connection()
        digest = queue(con, self.assigned, self.files.patients, self.files.cohort, self.message, HASHER)
        return digest, {row["line"]: row for row in con.sql("FROM outgoing").to_arrow_table().to_pylist()}

    @property
    def patients(self) -> dict[int, dict[str, Any]]:
        assert self.sorted
        return by_line(self.files.patients)

    @property
    def rejected_rows(self) -> dict[int, dict[str, Any]]:
        assert self.sorted
        return by_line(self.files.rejected_rows)

    @property
    def rejected(self) -> dict[int, str]:
        return {line: row["reason"] for line, row in self.rejected_rows.items()}

    @property
    def duplicate_rows(self) -> dict[int, dict[str, Any]]:
        assert self.sorted
        return by_line(self.files.duplicates)

    @property
    def duplicates(self) -> dict[int, int]:
        """Line to the line that stays."""
        return {line: row["kept_line"] for line, row in self.duplicate_rows.items()}

    @property
    def contactability(self) -> dict[int, dict[str, Any]]:
        assert self.assessed
        return by_line(self.contact_files.contactability)

    @property
    def non_contactable(self) -> dict[int, dict[str, Any]]:
        assert self.assessed
        return by_line(self.files.non_contactable)

    @property
    def plan(self) -> dict[int, dict[str, Any]]:
        return by_line(self.assigned)


def by_line(path: Path) -> dict[int, dict[str, Any]]:
    return {row["line"]: row for row in rows(path)}
