"""The first stage: a file in the inbox becomes a cohort, and its lines patients, rejected rows and duplicates."""

import json
from collections.abc import Iterator
from pathlib import Path

import dagster as dg

from batch_pipeline.defs import jobs, tables
from batch_pipeline.defs.partitions import BATCHES
from batch_pipeline.defs.refusals import SENTENCE, failure, refusals
from batch_pipeline.defs.resources import ClockResource, HouseResource
from batch_pipeline.errors import Refused
from batch_pipeline.operations.inbox import is_planned, look, replaced
from batch_pipeline.operations.submission import Intake, asks_for_date_of_birth, take_in
from batch_pipeline.planning import tables as schemas
from batch_pipeline.planning.patients import PatientFiles, sort_lines

GROUP = "cohort"
UNDERSTOOD = "the_file_is_understood"
ONE_PLACE = "every_line_is_in_one_place"


class CohortConfig(dg.Config):
    """Where a cohort comes from."""

    spec: str = ""
    """Name of a batch file in the inbox, or the path of one elsewhere. Empty: the kept cohort of the registered batch."""


@dg.multi_asset(
    outs={"cohort": tables.out(schemas.COHORT, GROUP)},
    check_specs=[
        dg.AssetCheckSpec(
            UNDERSTOOD,
            asset="cohort",
            blocking=True,
            description="The file is text with an NHS number column and at least one row; what is wrong names file, line and mend.",
        ),
        tables.fits_spec(schemas.COHORT),
    ],
    partitions_def=BATCHES,
)
def cohort(
    context: dg.AssetExecutionContext, config: CohortConfig, house: HouseResource, clock: ClockResource
) -> Iterator[dg.AssetCheckResult | dg.Output[Path]]:
    """Every data line of the file as it stands; the file itself is kept unchanged under its SHA-256."""
    with house.open().staging() as folder:
        try:
            intake = take_in(house.open(), context.partition_key, config.spec or None, folder, clock.now())
        except Refused as refusal:
            sentence = str(refusal)
            yield dg.AssetCheckResult(
                asset_key="cohort",
                check_name=UNDERSTOOD,
                passed=False,
                description=sentence,
                metadata={SENTENCE: sentence},
            )
            raise failure(sentence) from None
        yield dg.AssetCheckResult(
            asset_key="cohort", check_name=UNDERSTOOD, passed=True, metadata={"lines": intake.lines}
        )
        with house.open().duck() as con:
            yield tables.fits(con, schemas.COHORT, intake.table)
        yield dg.Output(intake.table, "cohort", metadata=_shown(intake))


def _shown(intake: Intake) -> dict[str, dg.MetadataValue]:
    shape = intake.shape
    return {
        "sha256": dg.MetadataValue.text(intake.sha256),
        "kept_file": dg.MetadataValue.path(str(intake.kept)),
        "lines": dg.MetadataValue.int(intake.lines),
        "left_out": tables.markdown(
            ("lines that aren't data", "lines"),
            {"blank": intake.blank_lines, "preamble and patient count": intake.left_out},
        ),
        "file": tables.markdown(
            ("property", "value"),
            {"encoding": shape.encoding, "delimiter": repr(shape.delimiter), "headings on line": shape.headings_line},
        ),
        "headings": tables.markdown(
            ("heading in the file", "read as"), dict(zip(shape.headings, shape.columns, strict=True))
        ),
    }


@dg.multi_asset(
    ins={"cohort": dg.AssetIn()},
    outs={
        "patients": tables.out(schemas.PATIENTS, GROUP),
        "rejected_rows": tables.out(schemas.REJECTED_ROWS, GROUP),
        "duplicates": tables.out(schemas.DUPLICATES, GROUP),
    },
    check_specs=[
        dg.AssetCheckSpec(
            ONE_PLACE,
            asset="patients",
            blocking=True,
            description="lines = rejected + duplicates + patient list, and no line is in two of them.",
        ),
        *map(tables.fits_spec, (schemas.PATIENTS, schemas.REJECTED_ROWS, schemas.DUPLICATES)),
    ],
    partitions_def=BATCHES,
)
def sorted_lines(
    context: dg.AssetExecutionContext, house: HouseResource, clock: ClockResource, cohort: Path
) -> Iterator[dg.AssetCheckResult | dg.Output[Path]]:
    """Mends what may be mended, and sorts every line: a patient, a duplicate of one, or rejected with its reason."""
    with refusals():
        submitted = house.open().submitted(context.partition_key)
    home = house.open()
    with refusals(), home.staging() as folder, home.duck() as con, tables.made_from(submitted, cohort):
        files = PatientFiles(folder / "patients", folder / "rejected_rows", folder / "duplicates")
        counted = sort_lines(
            con,
            cohort,
            files,
            today=clock.now().astimezone(submitted.workspace.zone).date(),
            needs_date_of_birth=asks_for_date_of_birth(submitted.file),
        )
        astray = schemas.astray(con, cohort, (files.patients, files.rejected_rows, files.duplicates))
        yield dg.AssetCheckResult(
            asset_key="patients",
            check_name=ONE_PLACE,
            passed=astray == 0,
            metadata={
                "lines": counted.lines,
                "patient_list": counted.patients,
                "rejected": sum(counted.rejected.values()),
                "duplicates": counted.duplicates,
                "lines_astray": astray,
            },
        )
        for schema, path in (
            (schemas.PATIENTS, files.patients),
            (schemas.REJECTED_ROWS, files.rejected_rows),
            (schemas.DUPLICATES, files.duplicates),
        ):
            yield tables.fits(con, schema, path)
        yield dg.Output(
            files.patients,
            "patients",
            metadata={
                "mended": tables.markdown(("mended", "lines"), counted.mended),
                "malformed_emails": counted.bad_emails,
                "unusable_numbers": counted.unusable_numbers,
                "masked_samples": tables.markdown(
                    ("line", "usable number"), schemas.masked_samples(con, files.patients)
                ),
            },
        )
        yield dg.Output(
            files.rejected_rows,
            "rejected_rows",
            metadata={"by_reason": tables.markdown(("reason", "lines"), counted.rejected)},
        )
        yield dg.Output(files.duplicates, "duplicates", metadata={"disagree_on_contact_details": counted.disagreeing})


@dg.sensor(
    job=jobs.plan,
    minimum_interval_seconds=15,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="A batch file in the inbox, whole and with its cohort, becomes a partition and a planning run.",
)
def inbox_sensor(context: dg.SensorEvaluationContext, house: HouseResource) -> dg.SensorResult:
    """Compares the inbox with the look before; the run key is the content, so a touched file plans nothing again."""
    home = house.open()
    found = look(home, json.loads(context.cursor or "{}"))
    for sentence in found.faulty:
        context.log.warning(sentence)
    new = [arrival for arrival in found.arrived if not is_planned(home, arrival.batch, arrival.spec)]
    return dg.SensorResult(
        run_requests=[
            dg.RunRequest(
                run_key=f"{arrival.batch}:{arrival.content}:{replaced(home, arrival.batch)}",
                partition_key=arrival.batch,
                run_config={"ops": {"cohort": {"config": {"spec": arrival.spec}}}},
            )
            for arrival in new
        ],
        dynamic_partitions_requests=[BATCHES.build_add_request([arrival.batch for arrival in new])] if new else [],
        skip_reason=None if new else "; ".join(found.faulty) or "nothing new in the inbox",
        cursor=json.dumps(found.stamps),
    )
