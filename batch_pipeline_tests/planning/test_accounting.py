"""Every line of any file has one place, and every figure of its plan is what the lines come to."""

from decimal import Decimal
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from hypothesis import HealthCheck, Phase, given, settings

from batch_pipeline.planning import tables
from batch_pipeline.planning.contact import Organisation
from batch_pipeline_tests.ledger.given import HASHER, nhs_number
from batch_pipeline_tests.planning.lines import Accounts, File, accounts_for, files
from batch_pipeline_tests.planning.oracle import Expected
from batch_pipeline_tests.planning.worlds import Planned, accounts, connection, facts, opt_outs


def planned(file: File, folder: Path) -> Planned:
    out = opt_outs(*((number, channel) for number, channels in file.out.items() for channel in sorted(channels)))
    marks = dict.fromkeys(file.marked, "exit_coded")
    return Planned(
        folder,
        file.content,
        organisation=Organisation(file.organisation, "england"),
        message_type=file.message,
        needs_date_of_birth=file.needs_date_of_birth,
        facts=facts(accounts(*file.notified), out, marks, failed=sorted(file.failed)),
        already_had=frozenset(HASHER.hash(nhs_number(number)) for number in file.had),
    )


def accounted(world: Planned) -> Accounts:
    """What planning made of it, in the oracle's words."""
    plan = world.plan
    figures = world.figures
    shown = {
        name: figures[name] for name in accounts_for_nobody if name not in ("non_contactable", "recipients", "cost")
    }
    return Accounts(
        rejected=world.rejected,
        duplicates=world.duplicates,
        patients={
            line: Expected(
                contactable=row["contactable"],
                path=row["path"],
                primary=row["primary_reason"],
                reasons=tuple(row["reasons"]),
                sub_reason=row["sub_reason"],
                no_sms_fallback=line in plan and plan[line]["no_sms_fallback"],
            )
            for line, row in world.contactability.items()
        },
        figures={
            **shown,
            "non_contactable": _some(figures["non_contactable"]),
            "recipients": _some(figures["recipients"]),
            "cost": {name: _decimal(value) for name, value in figures["cost"].items()},
        },
    )


accounts_for_nobody = accounts_for(File(())).figures


def _some(counts: dict[str, int]) -> dict[str, int]:
    return {name: n for name, n in counts.items() if n}


def _decimal(text: str) -> Any:
    return text if text.isalpha() else Decimal(text)


def adds_up(world: Planned) -> None:
    figures = world.figures
    assert figures["lines"] == figures["rejected"] + figures["duplicates"] + figures["patient_list"]
    missed, reached = sum(figures["non_contactable"].values()), sum(figures["recipients"].values())
    assert figures["patient_list"] == missed + reached


def one_place_each(world: Planned) -> None:
    files = world.files
    ends = (files.rejected_rows, files.duplicates, files.non_contactable, world.contact_files.recipients)
    assert tables.astray(connection(), files.cohort, ends) == 0
    assert tables.astray(connection(), world.contact_files.recipients, (files.channel_plan,)) == 0
    addressing = tables.addressing(connection(), files.channel_plan)
    assert (addressing.without_address, addressing.twice) == (0, 0)


def fits_its_schemas(world: Planned) -> None:
    files, contact = world.files, world.contact_files
    for schema, path in (
        (tables.COHORT, files.cohort),
        (tables.PATIENTS, files.patients),
        (tables.REJECTED_ROWS, files.rejected_rows),
        (tables.DUPLICATES, files.duplicates),
        (tables.CONTACTABILITY, contact.contactability),
        (tables.RECIPIENTS, contact.recipients),
        (tables.NON_CONTACTABLE, files.non_contactable),
        (tables.CHANNEL_PLAN, files.channel_plan),
    ):
        assert tables.broken(connection(), schema, path) == {}, schema.name


# Few examples, long files, and none made smaller: a plan takes half a second whatever its length.
@settings(max_examples=10, phases=set(Phase) - {Phase.shrink}, suppress_health_check=[HealthCheck.too_slow])
@given(file=files())
def test_any_file_accounts_for_every_line(file: File) -> None:
    with TemporaryDirectory() as folder:
        world = planned(file, Path(folder))
        found, wanted = accounted(world), accounts_for(file)
        for part in ("rejected", "duplicates", "patients", "figures"):
            assert getattr(found, part) == getattr(wanted, part), part
        adds_up(world)
        one_place_each(world)
        fits_its_schemas(world)
