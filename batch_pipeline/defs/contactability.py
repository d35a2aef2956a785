"""The second stage: who can be contacted, and every reason why not."""

from collections.abc import Iterator
from pathlib import Path

import dagster as dg

from batch_pipeline.defs import tables
from batch_pipeline.defs.partitions import BATCHES, newest_app_accounts
from batch_pipeline.defs.refusals import refusals
from batch_pipeline.defs.resources import ClockResource, HouseResource
from batch_pipeline.ingest.lists import NO_ACCOUNTS
from batch_pipeline.planning import tables as schemas
from batch_pipeline.planning.contact import ContactFiles, Organisation, assess
from batch_pipeline.planning.details import duplicates_among
from batch_pipeline.planning.duck import noted

GROUP = "contactability"
ONE_SIDE = "every_patient_is_on_one_side"


@dg.multi_asset(
    ins={"patients": dg.AssetIn(), "pds_details": dg.AssetIn()},
    deps=[newest_app_accounts()],
    outs={
        "contactability": tables.out(schemas.CONTACTABILITY, GROUP),
        "recipients": tables.out(schemas.RECIPIENTS, GROUP),
        "non_contactable": tables.out(schemas.NON_CONTACTABLE, GROUP),
    },
    check_specs=[
        dg.AssetCheckSpec(
            ONE_SIDE,
            asset="contactability",
            blocking=True,
            description="patient_list = non_contactable + recipients, and no patient is in both; but for a line that the "
            "look-ups found to be another line's patient, which is a duplicate.",
        ),
        *map(tables.fits_spec, (schemas.CONTACTABILITY, schemas.RECIPIENTS, schemas.NON_CONTACTABLE)),
    ],
    partitions_def=BATCHES,
)
def assessed_patients(
    context: dg.AssetExecutionContext, house: HouseResource, clock: ClockResource, patients: Path, pds_details: Path
) -> Iterator[dg.AssetCheckResult | dg.Output[Path]]:
    """For every patient the path that the table gives, and whether anything stands in its way."""
    home, now = house.open(), clock.now()
    with refusals():
        submitted = home.submitted(context.partition_key)
        workspace = submitted.workspace
        snapshot, accounts = home.snapshot(workspace, now)
        facts = home.facts(submitted, NO_ACCOUNTS if snapshot.state == "unknown" else accounts, now)
    with (
        refusals(),
        home.staging() as folder,
        home.duck() as con,
        tables.made_from(submitted, patients, pds_details),
        noted(snapshot=snapshot.as_note()),
    ):
        files = ContactFiles(folder / "contactability", folder / "recipients", folder / "non_contactable")
        found = assess(
            con,
            patients,
            pds_details,
            files,
            organisation=Organisation(workspace.organisation_type, workspace.nation, workspace.self_book_ignores_email),
            message_type=submitted.file.message.type,
            facts=facts,
            hasher=home.hasher,
        )
        one_of = duplicates_among(con, pds_details, folder / "duplicates")
        astray = schemas.astray(con, patients, (files.recipients, files.non_contactable, *one_of))
        yield dg.AssetCheckResult(
            asset_key="contactability",
            check_name=ONE_SIDE,
            passed=astray == 0,
            metadata={
                "recipients": sum(found.recipients.values()),
                "non_contactable": sum(found.non_contactable.values()),
                "patients_astray": astray,
            },
        )
        for schema, path in (
            (schemas.CONTACTABILITY, files.contactability),
            (schemas.RECIPIENTS, files.recipients),
            (schemas.NON_CONTACTABLE, files.non_contactable),
        ):
            yield tables.fits(con, schema, path)
        yield dg.Output(files.contactability, "contactability", metadata={"snapshot": snapshot.as_of or snapshot.state})
        yield dg.Output(
            files.recipients,
            "recipients",
            metadata={"by_path": tables.markdown(("path", "patients"), found.recipients)},
        )
        yield dg.Output(
            files.non_contactable,
            "non_contactable",
            metadata={
                "by_primary_reason": tables.markdown(("primary reason", "patients"), found.non_contactable),
                "by_sub_reason": tables.markdown(("sub-reason", "patients"), found.sub_reasons),
            },
        )
