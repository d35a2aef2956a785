"""The home folder: where everything of one installation lives, and how ``init`` makes it.

``--home``, else ``BATCH_PIPELINE_HOME``, else ``./.home``. Nothing in it is readable by others (SPEC 3); a file that
is there already is never overwritten.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from types import MappingProxyType

from batch_pipeline.errors import Refused

VARIABLE = "BATCH_PIPELINE_HOME"
_DEFAULT = Path(".home")

_SAMPLES: Mapping[str, str] = MappingProxyType(
    {
        "workspaces/riverside.yaml": "riverside.yaml",
        "templates/flu-invitation.md": "flu-invitation.md",
        "dagster/dagster.yaml": "dagster.yaml",
        "questionnaires/bmi.json": "questionnaires/bmi.json",
        "questionnaires/bp_4_day.json": "questionnaires/bp_4_day.json",
        "questionnaires/bp_7_day.json": "questionnaires/bp_7_day.json",
        "questionnaires/ethnicity.json": "questionnaires/ethnicity.json",
        "questionnaires/free_text.json": "questionnaires/free_text.json",
        "questionnaires/smoking_status.json": "questionnaires/smoking_status.json",
    }
)
"""What ``init`` writes: the path in the home, and the file of ``batch_pipeline/new_home`` it is a copy of."""


@dataclass(frozen=True, slots=True)
class Home:
    """The places in a home folder. Making one touches nothing."""

    root: Path

    @classmethod
    def resolve(cls, explicit: Path | None = None) -> "Home":
        """The home that was asked for, made absolute; it may not exist yet (``require``)."""
        chosen = explicit or Path(os.environ.get(VARIABLE) or _DEFAULT)
        return cls(chosen.expanduser().absolute())

    @property
    def workspaces(self) -> Path:
        """``*.yaml``, one an organisation."""
        return self.root / "workspaces"

    @property
    def templates(self) -> Path:
        """``*.md``, one a message."""
        return self.root / "templates"

    @property
    def questionnaires(self) -> Path:
        """``*.json``, one a questionnaire."""
        return self.root / "questionnaires"

    @property
    def slots(self) -> Path:
        """``*.csv`` and ``*.ics``, one a clinic that patients book."""
        return self.root / "slots"

    @property
    def inbox(self) -> Path:
        """Where batch files and their cohorts are dropped."""
        return self.root / "inbox"

    @property
    def data(self) -> Path:
        """Parquet between the assets."""
        return self.root / "data"

    @property
    def kept_cohorts(self) -> Path:
        """The raw cohorts, unchanged."""
        return self.data / "cohort_files"

    @property
    def kept_attachments(self) -> Path:
        """The files that go with batches, each under the SHA-256 of its content."""
        return self.data / "attachment_files"

    @property
    def kept_questionnaires(self) -> Path:
        """Questionnaires as they were when a batch was submitted; made with the first one."""
        return self.data / "questionnaire_files"

    @property
    def kept_slots(self) -> Path:
        """Slots as they were when they were taken in; made with the first ones."""
        return self.data / "slots_files"

    @property
    def reports(self) -> Path:
        """CSVs, a folder a batch."""
        return self.root / "reports"

    @property
    def records(self) -> Path:
        """NDJSON for patients' records, a folder a batch, unless a workspace names another place; made with its first file."""
        return self.root / "records"

    @property
    def dagster(self) -> Path:
        """DAGSTER_HOME."""
        return self.root / "dagster"

    @property
    def ledger_path(self) -> Path:
        """The SQLite ledger, where no ``LEDGER_URL`` is set."""
        return self.root / "ledger.sqlite"

    @property
    def ledger_url(self) -> str:
        """SQLAlchemy's address of the ledger: ``LEDGER_URL``, else the SQLite file."""
        return os.environ.get("LEDGER_URL") or f"sqlite:///{self.ledger_path}"

    @property
    def claims(self) -> Path:
        """The claims journal, where no ``BATCH_PIPELINE_CLAIMS`` is set; made with its first line."""
        return self.root / "claims"

    @property
    def metrics_path(self) -> Path:
        """The delivery metrics, for analysts."""
        return self.root / "metrics.duckdb"

    @property
    def simulator_path(self) -> Path:
        """The simulator's own journal."""
        return self.root / "simulator.sqlite"

    @property
    def hash_key_path(self) -> Path:
        """The key of the keyed hashes, made with the ledger. Whoever loses it forgets who got what."""
        return self.root / "hash.key"

    def require(self) -> "Home":
        """This home, if ``init`` has made it; ``Refused`` otherwise."""
        if not (self.root.is_dir() and self.workspaces.is_dir() and (self.dagster / "dagster.yaml").is_file()):
            raise Refused(
                f"{self.root} isn't a batch_pipeline home: run `batch-pipeline --home {self.root} init` to make it one"
            )
        return self

    def init(self) -> list[Path]:
        """Make the home, or what is missing of it; returns the files written. Raises ``Refused``.

        Folders are made 0700 and files 0600. What is there already stays as it is.
        """
        folders = (
            self.workspaces,
            self.templates,
            self.questionnaires,
            self.slots,
            self.inbox,
            self.data,
            self.kept_cohorts,
            self.kept_attachments,
            self.reports,
            self.dagster,
        )
        samples = resources.files("batch_pipeline") / "new_home"
        try:
            for folder in (self.root, *folders):
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            wanted = {place: sample for place, sample in _SAMPLES.items() if _wanted(self.root / place)}
            return [
                self.root / place
                for place, sample in wanted.items()
                if _write_new(self.root / place, (samples / sample).read_text("utf-8"))
            ]
        except OSError as error:
            raise Refused(
                f"{error.filename or self.root} can't be made: {error.strerror}; choose another --home"
            ) from None


def keep_private() -> None:
    """From now on whatever this process makes is its owner's alone, also what Dagster makes: call it first."""
    os.umask(0o077)


def _wanted(path: Path) -> bool:
    """An example is for an empty folder: one that was renamed or thrown away doesn't come back."""
    return path.name == "dagster.yaml" or not any(path.parent.iterdir())


def _write_new(path: Path, text: str) -> bool:
    """Write a file that isn't there, readable by its owner alone; False where there is one already."""
    try:
        handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    except FileExistsError:
        return False
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        file.write(text)
    return True
