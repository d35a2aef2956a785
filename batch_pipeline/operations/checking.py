"""Looking at a cohort or a batch file before it is submitted: what it holds and what is wrong. Keeps nothing."""

from datetime import date, datetime
from pathlib import Path
from typing import Any

from batch_pipeline.errors import Refused
from batch_pipeline.house import House
from batch_pipeline.ingest.reader import open_cohort
from batch_pipeline.operations import attaching, booking
from batch_pipeline.operations.review import worded
from batch_pipeline.operations.submission import asks_for_date_of_birth, cohort_of, questionnaire_of, read_into
from batch_pipeline.planning.patients import PatientFiles, sort_lines
from batch_pipeline.planning.plan import describe_rejections, fields_unknown
from batch_pipeline.settings import load_batch_file, not_yet
from batch_pipeline.templates import resolve_message


def check_file(house: House, file: Path, now: datetime) -> dict[str, Any]:
    """What the file holds. ``Refused`` with one sentence when it can't be understood, or can't be sent as it is."""
    house.home.require()
    if file.suffix.lower() not in {".yaml", ".yml"}:
        return _cohort(house, file, now.date(), needs_date_of_birth=False)
    batch = load_batch_file(file)
    workspace = house.workspace(batch.workspace)
    message = resolve_message(batch, house.home)
    questionnaire_of(batch, house)
    slots = booking.slots_of(house, batch, workspace, now)
    house.snapshot(workspace, now)
    house.opt_outs(workspace, now)
    house.check_providers(workspace)
    if problems := not_yet(batch):
        raise Refused(f"{file.name}: {problems[0]}")
    today = now.astimezone(workspace.zone).date()
    found = _cohort(house, cohort_of(file, batch), today, needs_date_of_birth=asks_for_date_of_birth(batch))
    attached = attaching.read(house, file, batch)
    words = worded(message, workspace, list(found["headings"].values()), attaching.link_in(batch, workspace))
    if words.unknown_fields:
        raise Refused(f"{file.name}: {fields_unknown(words)}")
    if words.link_problems:
        raise Refused(f"{file.name}: {words.link_problems[0]}")
    return {
        **found,
        "file": file.name,
        "batch": {
            "id": batch.batch,
            "workspace": workspace.id,
            "message": batch.message.type,
            "text": message.key[:20],
            **({} if attached is None else {"attachment": f"{attached.file.name} ({attached.file.label})"}),
            **({} if slots is None else {"slots": f"{slots.name}: {len(slots.slots):,}, with {slots.places:,} places"}),
        },
    }


def _cohort(house: House, file: Path, today: date, *, needs_date_of_birth: bool) -> dict[str, Any]:
    with house.staging() as folder, house.duck() as con:
        reader = open_cohort(file, label=file.name, max_bytes=house.settings.max_cohort_bytes)
        table, lines = read_into(reader, folder)
        files = PatientFiles(folder / "patients", folder / "rejected_rows", folder / "duplicates")
        counted = sort_lines(con, table, files, today=today, needs_date_of_birth=needs_date_of_birth)
    shape = reader.shape
    return {
        "file": file.name,
        "read_as": {"encoding": shape.encoding, "delimiter": shape.delimiter, "headings on line": shape.headings_line},
        "headings": dict(zip(shape.headings, shape.columns, strict=True)),
        "lines": {
            "lines of the file": lines,
            "rejected": sum(counted.rejected.values()),
            "duplicates": counted.duplicates,
            "patient list": counted.patients,
        },
        "rejected": describe_rejections(counted.rejected),
        "mended": counted.mended,
    }
