"""A made-up surgery with a home of its own: its lists, its batches, and a shell to type commands into.

Commands run in this process unless they are asked to run as a program of their own (``program``). Dagster keeps its
runs in memory, which halves the time a command takes, unless the surgery is made ``on_disk`` as a real one is.
"""

import contextlib
import csv
import io
import json
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import cache
from itertools import count
from pathlib import Path
from typing import Any
from unittest import mock

import dagster as dg
import duckdb

from batch_pipeline import cli, definitions
from batch_pipeline.home import Home
from batch_pipeline.house import House
from batch_pipeline.providers.simulator import Simulator
from batch_pipeline_tests.e2e.in_memory import connect_duck, dagster_in
from batch_pipeline_tests.ledger.given import attempt_rows, empty_ledger

T = datetime(2026, 10, 1, 9, tzinfo=UTC)
"""When most batches of these tests are sent."""
BODY = "Dear {{ first_name }}, your flu vaccination is ready at Larkfield."
_LOAD_DEFINITIONS = definitions.defs
PROGRAM = Path(sys.executable).parent / "batch-pipeline"

HEADINGS = ("NHS number", "First name", "Surname", "Date of birth", "Mobile number", "Email", "Deceased", "Clinic")

STATUS_KEYS = [
    *("batch", "status", "lines", "patient_list", "rejected", "duplicates", "non_contactable", "recipients"),
    *("without_valid_mobile", "delivered", "emailed", "read", "unread", "failed", "fallback_sent"),
    *("fallback_delivered", "awaiting", "cancelled", "expired", "unconfirmed", "held_back", "no_sms_fallback"),
    *("double_contact", "reminders", "fragments", "cost", "currency"),
]
"""Word for word those of issue 2, item 8."""


def nhs_number(n: int) -> str:
    """The n-th valid number of 999 000 0000-999 999 9999."""
    while len(_NUMBERS) <= n:
        digits = str(next(_NINE_DIGITS))
        check = -sum(weight * int(digit) for weight, digit in zip(range(10, 1, -1), digits, strict=True)) % 11
        if check < 10:
            _NUMBERS.append(f"{digits}{check}")
    return _NUMBERS[n]


_NUMBERS: list[str] = []
_NINE_DIGITS = count(999_000_001)


@cache
def _load_definitions() -> dg.Definitions:
    """Once a process: they are the same in every home, which they look for when they run."""
    before = os.umask(0o022)
    try:
        return _LOAD_DEFINITIONS()
    finally:  # loading makes what a program writes private; here others' tests follow
        os.umask(before)


@dataclass(frozen=True)
class Person:
    """Somebody on the list, all of whose details follow from a number, unless they are said to be otherwise."""

    n: int
    mobile: str = ""
    email: str = ""
    deceased: str = ""
    clinic: str = "Tuesday"
    nhs: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "nhs", self.nhs or nhs_number(self.n))

    @property
    def first_name(self) -> str:
        return f"Forename{self.n:03d}"

    @property
    def surname(self) -> str:
        return f"Familyname{self.n:03d}"

    def row(self) -> dict[str, str]:
        known = (
            *(self.nhs, self.first_name, self.surname, "31/01/1980"),
            *(self.mobile, self.email, self.deceased, self.clinic),
        )
        return dict(zip(HEADINGS, known, strict=True))


def mobile(n: int) -> str:
    return f"07700900{n:03d}"


def by_sms(n: int) -> Person:
    """Somebody with a mobile alone: reached by text, or by the App if they have it."""
    return Person(n, mobile=mobile(n))


def by_email(n: int) -> Person:
    return Person(n, mobile=mobile(n), email=f"patient{n:03d}@example.org")


def numbered(kind: Callable[[int], Person], numbers: Iterable[int]) -> list[Person]:
    return [kind(n) for n in numbers]


def csv_text(rows: Sequence[Mapping[str, str]], headings: Sequence[str] = HEADINGS) -> str:
    out = io.StringIO()
    writer = csv.DictWriter(out, headings)
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


@dataclass(frozen=True)
class Ran:
    """What a command did."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """The one object on stdout; anything beside it is an error."""
        return json.loads(self.out)

    @property
    def words(self) -> str:
        """All that was said, without the line breaks of the terminal's width."""
        return " ".join((self.out + " " + self.err).split())

    @property
    def sentence(self) -> str:
        """What a refused command says on stderr: one line, no traceback."""
        lines = [line for line in self.err.splitlines() if line.strip()]
        assert len(lines) == 1, self.err
        assert "Traceback" not in self.err
        return lines[0]


@dataclass
class Surgery:
    """One organisation and its home. ``desk`` is where its people keep batch files before they submit them."""

    root: Path
    on_disk: bool = False
    keys: dict[str, Any] = field(default_factory=dict)
    fates: dict[tuple[str, str], tuple[str, float | None]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.root.mkdir(parents=True, exist_ok=True)
        self.home = Home(self.root / "home")
        self.desk = self.root / "desk"
        self.desk.mkdir(exist_ok=True)
        self.home.init()
        self._new_ledger()
        (self.home.workspaces / "riverside.yaml").unlink(missing_ok=True)
        self.workspace()
        self._instance: dg.DagsterInstance | None = None

    def _new_ledger(self) -> None:
        """As the first command would make one: an SQLite file is copied, for that goes twenty times as fast."""
        if "LEDGER_URL" not in os.environ and not self.home.ledger_path.exists():
            self.home.ledger_path.write_bytes(empty_ledger())
            self.home.ledger_path.chmod(0o600)

    def become(self, other: "Surgery") -> None:
        """Goes on, as a copy, from where the other is. The two share Dagster, which has no place of its own."""
        shutil.rmtree(self.root)
        shutil.copytree(other.root, self.root)
        self.keys, self.fates, self._instance = dict(other.keys), dict(other.fates), other._instance

    # What the surgery knows ------------------------------------------------------------------------------------------

    def workspace(self, **keys: Any) -> None:
        """Changes the workspace file; what was said before stays."""
        self.keys |= keys
        known = {
            "id": "larkfield",
            "name": "Larkfield Surgery",
            "ods_code": "A99999",
            "organisation_type": "gp",
            "nation": "england",
            "prices": {"currency": "GBP", "sms_fragment": 0.02, "email": 0.001, "nhs_app": 0.005},
            **self.keys,
        }
        self.put(self.home.workspaces / "larkfield.yaml", json.dumps(known))

    def app_users(self, *people: Person, off: Iterable[Person] = (), as_of: str = "2026-10-01") -> None:
        rows = [*((person.nhs, "true") for person in people), *((person.nhs, "false") for person in off)]
        self._list("app.csv", "nhs_number,notifications_enabled", rows)
        self.workspace(nhs_app_accounts={"path": "app.csv", "as_of": as_of})

    def opt_outs(self, *people: Person, on: str = "2026-01-01", channel: str = "all") -> None:
        self._list("opt-outs.csv", "nhs_number,opted_out_on,channel", [(each.nhs, on, channel) for each in people])
        self.workspace(opt_outs={"path": "opt-outs.csv"})

    def fate(self, person: Person, channel: str, outcome: str, after: float | None = None) -> None:
        """What the simulator makes of a person's messages; ``after``: minutes."""
        self.fates[person.nhs, channel] = (outcome, after)
        rows = [(*whom, outcome, "" if after is None else str(after)) for whom, (outcome, after) in self.fates.items()]
        self._list("outcomes.csv", "nhs_number,channel,outcome,after_minutes", rows)
        self.workspace(simulator={**self.keys.get("simulator", {}), "outcomes": "outcomes.csv"})

    def _list(self, name: str, headings: str, rows: Iterable[Sequence[str]]) -> None:
        self.put(self.home.workspaces / name, "\n".join([headings, *map(",".join, rows)]) + "\n")

    @staticmethod
    def put(path: Path, text: str) -> Path:
        path.write_text(text, encoding="utf-8", newline="")
        path.chmod(0o600)
        return path

    def batch(
        self,
        batch: str,
        people: Iterable[Person] | str | bytes,
        *,
        folder: Path | None = None,
        cohort: str = "",
        message: Mapping[str, Any] | None = None,
        **keys: Any,
    ) -> Path:
        """Writes a batch file and its cohort (people, or the file's own text); gives the batch file."""
        folder = folder or self.desk
        cohort = cohort or f"{batch}.csv"
        if not isinstance(people, (str, bytes)):
            people = csv_text([person.row() for person in people])
        (folder / cohort).write_bytes(people if isinstance(people, bytes) else people.encode())
        (folder / cohort).chmod(0o600)
        said = {"type": "simple", "body": BODY, **(message or {})}
        spec = {"batch": batch, "workspace": "larkfield", "cohort": cohort, "message": said, **keys}
        return self.put(folder / f"{batch}.yaml", json.dumps(spec, indent=1))

    # Typing commands -------------------------------------------------------------------------------------------------

    def shell(self, *words: object, at: datetime | None = None) -> Ran:
        """Runs a command in this process, as the console script would."""
        typed = self._typed(words, at)
        out, err = io.StringIO(), io.StringIO()
        with (
            mock.patch.object(sys, "argv", ["batch-pipeline", *typed]),
            mock.patch.object(definitions, "defs", _load_definitions),
            self.dagster() if not self.on_disk else mock.patch.dict(os.environ),
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
        ):
            before = os.umask(0o022)
            try:
                cli.main()
                code = 0
            except SystemExit as left:
                code = left.code if isinstance(left.code, int) else int(left.code is not None)
            finally:
                os.umask(before)
        return Ran(code, out.getvalue(), err.getvalue())

    def program(self, *words: object, at: datetime | None = None, **more: Any) -> Ran:
        """Runs the real program."""
        ran = subprocess.run(
            [PROGRAM, *self._typed(words, at)], capture_output=True, text=True, check=False, timeout=300, **more
        )
        return Ran(ran.returncode, ran.stdout, ran.stderr)

    def _typed(self, words: Sequence[object], at: datetime | None) -> list[str]:
        return ["--home", str(self.home.root), *map(str, words), *(["--at", at.isoformat()] if at else [])]

    @contextlib.contextmanager
    def dagster(self) -> Iterator[dg.DagsterInstance]:
        """Dagster as the surgery keeps it, in the surgery's home."""
        places = {"BATCH_PIPELINE_HOME": str(self.home.root), "DAGSTER_HOME": str(self.home.dagster)}
        if self.on_disk:
            with mock.patch.dict(os.environ, places), dg.DagsterInstance.get() as instance:
                yield instance
            return
        if self._instance is None:
            self._instance = dagster_in(self.home.dagster)
        with (
            mock.patch.dict(os.environ, places),
            mock.patch.object(dg.DagsterInstance, "get", staticmethod(lambda: self._instance)),
            mock.patch.object(definitions, "defs", _load_definitions),
            mock.patch.object(duckdb, "connect", connect_duck),
        ):
            yield self._instance

    def done(self, *words: object, at: datetime | None = None) -> Ran:
        """A command that has to succeed."""
        ran = self.shell(*words, at=at)
        assert ran.code == 0, "\n".join([ran.err, *self._failed_steps()])
        return ran

    def _failed_steps(self) -> Iterator[str]:
        """What the steps of the last failed run raised: the shell leaves that to the UI."""
        with self.dagster() as instance:
            for run in instance.get_runs(dg.RunsFilter(statuses=[dg.DagsterRunStatus.FAILURE]), limit=1):
                for entry in instance.all_logs(run.run_id, of_type=dg.DagsterEventType.STEP_FAILURE):
                    yield entry.get_dagster_event().step_failure_data.error_display_string

    def refused(self, *words: object, at: datetime | None = None) -> str:
        """A command that has to be refused; gives the one sentence that it says."""
        ran = self.shell(*words, at=at)
        assert ran.code == 1, ran
        return ran.sentence

    def send(self, spec: Path, at: datetime = T) -> str:
        """Submits, approves and dispatches; gives the batch's id."""
        batch = json.loads(spec.read_text())["batch"]
        self.done("submit", spec, at=at)
        self.done("approve", batch, "--by", "Dr Test", at=at)
        self.done("dispatch", batch, at=at)
        return batch

    # What came of it -------------------------------------------------------------------------------------------------

    @property
    def house(self) -> House:
        return House(self.home)

    def status(self, batch: str, **wanted: Any) -> dict[str, Any]:
        """``status --json``, whose keys and sums are looked at whenever it is asked for; ``wanted`` as well."""
        found = self.done("status", batch, "--json").json
        assert [name for name in found if name not in {"paused", "record", "answers"}] == STATUS_KEYS
        parts = ("emailed", "delivered", "failed", "awaiting", "cancelled", "expired", "unconfirmed", "held_back")
        recipients = sum(found["recipients"].values())
        assert recipients == sum(found[part] for part in parts), found
        assert found["patient_list"] == sum(found["non_contactable"].values()) + recipients, found
        assert found["lines"] == found["rejected"] + found["duplicates"] + found["patient_list"], found
        assert {name: found[name] for name in wanted} == wanted
        return found

    def journal(self) -> Counter[str]:
        """How often the simulator took each message, by the plain form of its reference."""
        if not self.home.simulator_path.exists():
            return Counter()
        return Counter(plain(entry.reference) for entry in Simulator(self.home.simulator_path).journal())

    def references(self, batch: str) -> dict[str, str]:
        """The references of a batch's messages, by their plain form."""
        return {
            plain(reference): reference for (reference,) in attempt_rows(self.house.ledger, "reference", batch=batch)
        }

    def sent_once(self) -> set[str]:
        """Every message that was ever sent, each of which was sent once."""
        journal = self.journal()
        assert set(journal.values()) <= {1}, journal
        return set(journal)

    def report(self, batch: str, name: str) -> list[dict[str, str]]:
        with (self.home.reports / batch / name).open(encoding="utf-8-sig", newline="") as file:
            return list(csv.DictReader(file))

    def stored(self) -> list[str]:
        """What lies under ``data/``, by its path there."""
        files = (path for path in self.home.data.rglob("*") if path.is_file())
        return sorted(str(path.relative_to(self.home.data)) for path in files)


def plain(reference: str) -> str:
    """A reference without its token, which chance makes."""
    return re.sub(":[0-9a-f]{8}:", ":", reference)


def hours(n: float) -> timedelta:
    return timedelta(hours=n)


SECOND = timedelta(seconds=1)

__all__ = [
    "BODY", "HEADINGS", "SECOND", "STATUS_KEYS", "Person", "Ran", "Surgery", "T", "by_email", "by_sms", "csv_text",
    "hours", "mobile", "nhs_number", "numbered", "plain", "replace",
]  # fmt: skip
