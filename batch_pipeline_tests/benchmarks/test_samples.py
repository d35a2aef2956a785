"""The files in ``examples/`` are what ``benchmarks.samples`` makes, and hold what they are there to show."""

import csv
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from batch_pipeline.ingest.reader import open_cohort
from batch_pipeline.rules import emails, phones
from benchmarks import cohorts, dirt, people, samples

EXAMPLES = Path(__file__).parents[2] / "examples"
FILES = (
    "asthma-2026-10.csv",
    "asthma-2026-10.yaml",
    "asthma-clinic.csv",
    "bp-2026-10.csv",
    "bp-2026-10.pdf",
    "bp-2026-10.yaml",
    "flu-2026-10.csv",
    "flu-2026-10.yaml",
    "riverside-nhs-app-accounts.csv",
    "riverside-opt-outs.csv",
    "riverside-outcomes.csv",
    "riverside.yaml",
)
COLUMNS = {"mobile": dirt.PHONES, "telephone": dirt.OTHER_PHONES, "email": dirt.EMAILS, "extra": dirt.EXTRA_CELLS}
IDENTITY_COLUMNS = {
    "nhs_number": dirt.NHS_NUMBERS,
    "date_of_birth": dirt.DATES_OF_BIRTH,
    "surname": dirt.SURNAME_CELLS,
    "life": dirt.LIVES,
}


def rows(name: str) -> list[dict[str, str]]:
    with (EXAMPLES / name).open(encoding="utf-8", newline="") as lines:
        return list(csv.DictReader(lines))


def test_the_kept_samples_are_what_the_generator_makes(tmp_path: Path) -> None:
    samples.write_all(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(FILES)
    for name in FILES:
        assert (tmp_path / name).read_bytes() == (EXAMPLES / name).read_bytes(), f"{name}: make it again, --examples"


@pytest.mark.parametrize("first_person", [samples.FLU_PEOPLE.start, samples.BP_PEOPLE.start])
def test_each_sample_cohort_has_every_kind_of_dirt(first_person: int) -> None:
    (chunk,) = cohorts.chunks(samples.ROWS, first_person=first_person)
    assert set(chunk.lines.tolist()) == set(range(len(dirt.LINES)))
    assert set(chunk.between.tolist()) == set(range(len(dirt.BETWEEN)))
    for persons, tables in ((chunk.details, COLUMNS), (chunk.identity, IDENTITY_COLUMNS)):
        for column, table in tables.items():
            kinds = people.kinds(table, persons, seed=cohorts.SEED, salt=cohorts.SALTS[column])
            missing = [row.name for index, row in enumerate(table) if index not in set(kinds.tolist())]
            assert not missing, f"{column}: no line has {missing}"


@pytest.mark.parametrize("name", ["flu-2026-10.csv", "bp-2026-10.csv"])
def test_each_sample_cohort_has_somebody_for_every_reason_that_lists_and_files_give(name: str) -> None:
    with_app = {
        row["nhs_number"] for row in rows("riverside-nhs-app-accounts.csv") if row["notifications_enabled"] == "true"
    }
    opted_out = {row["nhs_number"] for row in rows("riverside-opt-outs.csv")}
    failed = {
        row["nhs_number"]
        for row in rows("riverside-outcomes.csv")
        if (row["channel"], row["outcome"]) == ("sms", "failed")
    }
    found: Counter[str] = Counter()
    cohort = open_cohort(EXAMPLES / name, label=name, max_bytes=10**9)
    for row in (row for batch in cohort.batches() for row in batch.to_pylist()):
        number = re.sub(r"[^0-9]", "", row["nhs_number"] or "")
        kinds = [phones.classify(row[field]).kind for field in ("mobile", "preferred_telephone", "telephone")]
        found["rejected"] += bool(row["problem"])
        found["deceased"] += bool(row["date_of_death"] or row["deceased"] not in {None, "No"})
        found["opted out"] += number in opted_out
        if emails.classify(row["email"]).kind == "good":
            found["email"] += 1
        elif number in with_app:
            found["app" if "mobile" in kinds else "app, no number"] += 1
        elif "mobile" in kinds:
            found["likely to fail next time" if number in failed else "sms"] += 1
        else:
            found[next((kind for kind in kinds if kind != "none"), "none")] += 1
    reasons = {
        "rejected",
        "deceased",
        "opted out",
        "none",
        "landline",
        "not_mobile",
        "not_uk",
        "likely to fail next time",
    }
    assert {what for what, count in found.items() if count} == reasons | {"email", "app", "app, no number", "sms"}


def test_the_cohorts_share_most_of_their_patients() -> None:
    assert len(set(samples.FLU_PEOPLE) & set(samples.BP_PEOPLE)) == 800


def test_phones_in_the_samples_are_nobodys() -> None:
    text = "".join((EXAMPLES / name).read_text(encoding="latin-1") for name in FILES)
    assert re.findall(r"(?<!\d)07[4-9]\d{2} ?[0-68-9]\d{2} ?\d{3}", re.sub(r"07700 ?900", "", text)) == []


def test_the_app_snapshot_has_accounts_with_and_without_notifications() -> None:
    counts = Counter(row["notifications_enabled"] for row in rows("riverside-nhs-app-accounts.csv"))
    assert counts["true"] > 400
    assert counts["false"] > 80


def test_opt_outs_are_of_everything_and_of_single_channels() -> None:
    assert {row["channel"] for row in rows("riverside-opt-outs.csv")} == {"all", "sms", "email"}


def test_outcomes_are_given_once_to_patients_of_both_cohorts() -> None:
    both = np.array(sorted(set(samples.FLU_PEOPLE) & set(samples.BP_PEOPLE)))
    numbers = {str(number) for number in people.nhs_numbers(both).tolist()}
    given = [(row["nhs_number"], row["channel"]) for row in rows("riverside-outcomes.csv")]
    assert len(given) == len(set(given)) == sum(row.patients for row in samples.OUTCOMES) + 6
    assert {number for number, _ in given} <= numbers
