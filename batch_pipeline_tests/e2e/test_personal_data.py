"""Nobody's details where they don't belong: Dagster's storage, what the shell says, and other people's eyes (SPEC 3)."""

import stat
from pathlib import Path

import pytest

from batch_pipeline_tests.e2e.surgery import (
    HEADINGS,
    Person,
    Surgery,
    T,
    by_email,
    by_sms,
    csv_text,
    hours,
    mobile,
    numbered,
)

APP, TEXTED, EMAILED = numbered(by_sms, range(101, 104)), numbered(by_sms, range(111, 114)), [by_email(121)]
OTHERS = [
    Person(131, mobile=mobile(131), deceased="Y"),
    Person(132, mobile="07700 900132 or 07700 900133"),
    Person(133, email="patient133@example.org (wife)"),
    Person(134, nhs="9990001349"),
    by_sms(111),
]
EVERYBODY = [*APP, *TEXTED, *EMAILED, *OTHERS]
BODY = "Dear {{ first_name }}, your tetanus booster is overdue at {{ clinic }}."


def needles(people: list[Person]) -> set[str]:
    """Every detail of these people, in the spellings it might have."""
    found = {"tetanus booster"}
    for person in people:
        last_nine = person.mobile.replace(" ", "")[-9:]
        found |= {person.nhs, person.first_name, person.surname, f"patient{person.n}", last_nine}
        found |= {f"{person.nhs[:3]} {person.nhs[3:6]} {person.nhs[6:]}", f"{person.mobile[:5]} {person.mobile[5:]}"}
    return {needle for needle in found if needle.strip()}


def found_in(folder: Path, wanted: set[str]) -> list[tuple[str, str]]:
    return [
        (str(path.relative_to(folder)), needle)
        for path in folder.rglob("*")
        if path.is_file()
        for content in [path.read_bytes()]
        for needle in wanted
        if needle.encode() in content
    ]


@pytest.mark.parametrize("surgery_database", ["sqlite"], indirect=True)  # looks into the ledger's file
def test_a_whole_batch_leaves_nobodys_details_in_dagster_nor_on_the_terminal_and_everything_private(
    surgery_on_disk: Surgery,
) -> None:
    surgery = surgery_on_disk
    surgery.app_users(*APP)
    surgery.fate(APP[0], "nhs_app", "silent")
    surgery.fate(APP[1], "nhs_app", "rejected")
    surgery.fate(TEXTED[0], "sms", "failed")
    shown = [
        surgery.done("submit", surgery.batch("tetanus", EVERYBODY, message={"body": BODY}), at=T),
        surgery.done("approve", "tetanus", "--by", "Dr Test", at=T),
        surgery.done("dispatch", "tetanus", at=T),
        surgery.done("sweep", at=T + hours(24)),
        surgery.done("sweep", at=T + hours(30)),
        surgery.done("report", "tetanus", at=T + hours(31)),
        surgery.done("status", "tetanus"),
        surgery.done("status", "tetanus", "--json"),
    ]
    surgery.status("tetanus", status="Done", rejected=1, duplicates=1)

    # files that are refused are full of details, too
    rows = [person.row() for person in EVERYBODY]
    headless = csv_text(rows).split("\r\n", 1)[1]
    twice = csv_text(rows).replace("Clinic", "Email")
    for name, text in (
        ("no-headings", headless),
        ("twice", twice),
        ("no-number", csv_text(rows, HEADINGS).replace("NHS number", "Number")),
    ):
        ran = surgery.shell("submit", surgery.batch(name, text), at=T)
        assert ran.code == 1
        shown.append(ran)

    wanted = needles(EVERYBODY)
    places = {place for place, _ in found_in(surgery.home.root, {"tetanus booster"})}
    assert places & {"ledger.sqlite", "ledger.sqlite-wal"}  # they can be found
    assert found_in(surgery.home.dagster, wanted) == []
    said = " ".join(each.out + each.err for each in shown).replace(str(surgery.home.root), "")
    assert [needle for needle in wanted - {"tetanus booster"} if needle in said] == []

    open_to_others = [
        (str(path), oct(path.stat().st_mode))
        for path in (surgery.home.root, *surgery.home.root.rglob("*"))
        if not path.is_symlink() and stat.S_IMODE(path.stat().st_mode) & 0o077
    ]
    assert open_to_others == []


def test_copied_reports_are_private_as_well(surgery: Surgery, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(surgery.desk)
    surgery.done("submit", surgery.batch("flu", [by_sms(1), OTHERS[0]]), at=T)
    surgery.done("report", "flu", "--out", "copies/of/today", at=T)
    copies = surgery.desk / "copies" / "of" / "today"
    assert stat.S_IMODE(copies.stat().st_mode) == 0o700
    files = sorted(copies.iterdir())
    assert {"follow_up.csv", "non_contactable.csv", "outcomes.csv", "rejected_rows.csv"} <= {
        path.name for path in files
    }
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}
    for path in files:
        assert path.read_bytes() == (surgery.home.reports / "flu" / path.name).read_bytes()
