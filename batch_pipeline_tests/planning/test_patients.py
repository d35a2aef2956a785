"""From the file's lines to patients, rejected rows and duplicates."""

from pathlib import Path
from typing import Any

import pytest

from batch_pipeline.planning import tables
from batch_pipeline_tests.planning.worlds import Planned, connection, csv_text, e164, mobile, nhs_number, patient

LANDLINE, PAGER, FOREIGN = "020 7946 0018", "076" + 8 * "0", "+33 1 99 00 12 34"
EMAIL = "ash@example.org"


def sorted_lines(folder: Path, *lines: dict[str, str], **more: Any) -> Planned:
    return Planned(folder, csv_text(lines), **more)


# ---- which of several lines stays -------------------------------------------------------------------------------------

SEVERAL = {
    # cells of each line of one patient: which line stays, and which of the others disagree with it
    "both good": ([{"mobile": mobile(1)}, {"mobile": mobile(1)}], 0, [False]),
    "another number": ([{"mobile": mobile(1)}, {"mobile": mobile(2)}], 0, [True]),
    "the first has none": ([{}, {"mobile": mobile(1)}, {"mobile": mobile(1)}], 1, [True, False]),
    "an email is a contact detail": ([{}, {"email": EMAIL}, {"mobile": mobile(1)}], 1, [True, True]),
    "a landline isn't": ([{"mobile": LANDLINE}, {"telephone": mobile(1)}], 1, [True]),
    "a bad email isn't": ([{"email": "ash"}, {"email": EMAIL}], 1, [True]),
    "none has any": ([{}, {}, {}], 0, [False, False]),
    "none has a usable one": ([{"mobile": LANDLINE}, {"mobile": FOREIGN}], 0, [True]),
    "the same number written otherwise": ([{"mobile": "+44 7700 900001"}, {"telephone": mobile(1)}], 0, [False]),
    "the same address written otherwise": ([{"email": EMAIL}, {"email": f"<{EMAIL}>"}], 0, [False]),
    "names and dates may differ": ([{"patient_name": "A B"}, {"patient_name": "C D", "date_of_birth": ""}], 0, [False]),
    "a rejected line is none of them": ([{"date_of_birth": "?", "mobile": mobile(1)}, {}, {}], 1, [False]),
}


@pytest.fixture(scope="module")
def several(tmp_path_factory: pytest.TempPathFactory) -> Planned:
    lines = [patient(number, **cells) for number, (own, _, _) in enumerate(SEVERAL.values()) for cells in own]
    return sorted_lines(tmp_path_factory.mktemp("several"), *lines)


@pytest.mark.parametrize("case", SEVERAL)
def test_the_first_line_with_a_usable_contact_detail_stays(several: Planned, case: str) -> None:
    own, stays, disagree = SEVERAL[case]
    first = 2 + sum(
        len(lines) for name, (lines, _, _) in SEVERAL.items() if list(SEVERAL).index(name) < list(SEVERAL).index(case)
    )
    lines = range(first, first + len(own))
    others = [line for line in lines if line != first + stays and line not in several.rejected]
    assert several.patients[first + stays]["nhs_number"] == nhs_number(list(SEVERAL).index(case))
    assert {line: several.duplicates[line] for line in others} == dict.fromkeys(others, first + stays)
    assert [several.duplicate_rows[line]["disagrees"] for line in others] == disagree


def test_several_lines_are_one_patient(several: Planned) -> None:
    assert len(several.patients) == several.sorted.patients == len(SEVERAL)
    assert several.sorted.duplicates == len(several.duplicates)
    assert several.sorted.disagreeing == sum(sum(disagree) for _, _, disagree in SEVERAL.values())


# ---- who is dead -------------------------------------------------------------------------------------------------------

DEAD = {
    # cells of each line of one patient: dead, and the detail
    "no": ([{}], False, None),
    "said not to be": ([{"deceased": "No", "date_of_death": "-"}], False, None),
    "a date of death": ([{"date_of_death": "01/02/2026"}], True, None),
    "an unreadable date of death": ([{"date_of_death": "in spring", "deceased": "N"}], True, None),
    "yes": ([{"deceased": "Y"}], True, None),
    "unclear": ([{"deceased": "possibly"}], True, "unclear"),
    "on a duplicate": ([{"mobile": mobile(1)}, {"deceased": "Y"}], True, None),
    "unclear on a duplicate": ([{"mobile": mobile(1)}, {"deceased": "?"}], True, "unclear"),
    "clear on one, unclear on another": ([{"deceased": "?"}, {"deceased": "Y"}], True, None),
    "on a line with a wrong date of birth": ([{}, {"date_of_birth": "?", "deceased": "Y"}], True, None),
    "before it": ([{"date_of_birth": "?", "date_of_death": "x"}, {"mobile": mobile(1)}, {}], True, None),
}


@pytest.fixture(scope="module")
def dead(tmp_path_factory: pytest.TempPathFactory) -> Planned:
    lines = [patient(number, **cells) for number, (own, _, _) in enumerate(DEAD.values()) for cells in own]
    return sorted_lines(tmp_path_factory.mktemp("dead"), *lines)


@pytest.mark.parametrize("case", DEAD)
def test_deceased_on_any_line_counts(dead: Planned, case: str) -> None:
    _, deceased, detail = DEAD[case]
    number = nhs_number(list(DEAD).index(case))
    row = next(row for row in dead.patients.values() if row["nhs_number"] == number)
    assert (row["deceased"], row["deceased_detail"]) == (deceased, detail)
    listed = {row["nhs_number"]: row for row in dead.non_contactable.values()}
    assert (listed[number]["primary_reason"] == "deceased") == deceased
    if deceased:
        assert (listed[number]["detail"] or "").startswith(detail or "")


def test_a_patient_with_rejected_lines_only_is_no_patient(tmp_path: Path) -> None:
    lines = [patient(0, date_of_birth="?", deceased="Y"), patient(0, date_of_birth="?"), patient(1)]
    world = sorted_lines(tmp_path, *lines)
    assert (set(world.patients), set(world.rejected), world.duplicates) == ({4}, {2, 3}, {})


# ---- the number, the address, the name ---------------------------------------------------------------------------------

CONTACTS: dict[str, tuple[dict[str, str], dict[str, str | None]]] = {
    "the mobile before the preferred": (
        {"mobile": mobile(1), "preferred": mobile(2), "telephone": mobile(3)},
        {"mobile": e164(1), "phone_kind": "mobile", "phone_detail": None},
    ),
    "the preferred before the other": (
        {"mobile": LANDLINE, "preferred": mobile(2), "telephone": mobile(3)},
        {"mobile": e164(2), "phone_kind": "mobile"},
    ),
    "a number that only Python can read is in its place, too": (
        {"mobile": "tel: 0", "preferred": "07700.900.002", "telephone": mobile(3)},
        {"mobile": e164(2), "phone_kind": "mobile"},
    ),
    "the last": ({"mobile": "", "preferred": FOREIGN, "telephone": "7700900003"}, {"mobile": e164(3)}),
    "none": ({"mobile": "nan", "preferred": "-"}, {"mobile": None, "phone_kind": "none", "phone_detail": None}),
    "a foreign number says more than a landline": (
        {"mobile": LANDLINE, "telephone": FOREIGN},
        {"mobile": None, "phone_kind": "not_uk", "phone_detail": "a number of another country"},
    ),
    "a landline says more than a pager": ({"mobile": PAGER, "telephone": LANDLINE}, {"phone_kind": "landline"}),
    "a pager": ({"mobile": PAGER}, {"mobile": None, "phone_kind": "not_mobile"}),
    "two in one cell": (
        {"mobile": f"{mobile(1)} or {mobile(2)}"},
        {"mobile": None, "phone_kind": "not_uk", "phone_detail": "two numbers in one cell"},
    ),
    "whose is it": (
        {"mobile": f"{mobile(1)} (wife)"},
        {"mobile": None, "phone_kind": "not_uk", "phone_detail": "other text beside the number"},
    ),
    "digits were lost": (
        {"mobile": "4.47701E+11"},
        {"phone_kind": "not_uk", "phone_detail": "scientific notation: digits were lost"},
    ),
    "an address": ({"email": EMAIL}, {"email": EMAIL, "email_kind": "good", "email_detail": None}),
    "an address with things around it": ({"email": f' "<{EMAIL}>";\u200b'}, {"email": EMAIL, "email_kind": "good"}),
    "two addresses": (
        {"email": f"{EMAIL}; bay@example.org"},
        {"email": None, "email_kind": "bad", "email_detail": "two addresses in one cell"},
    ),
    "whose address": (
        {"email": f"{EMAIL} (wife)"},
        {"email": None, "email_kind": "bad", "email_detail": "other text beside the address"},
    ),
    "no address": ({"email": "NULL"}, {"email": None, "email_kind": "none", "email_detail": None}),
    "a full name": (
        {"patient_name": "SMITH, Ann (Mrs)"},
        {"patient_name": "SMITH, Ann (Mrs)", "first_name": "Ann", "surname": "SMITH"},
    ),
    "its parts": (
        {"patient_name": "", "First name": "Ann", "Surname": "Smith"},
        {"patient_name": None, "first_name": "Ann", "surname": "Smith"},
    ),
    "its parts before the full name": (
        {"patient_name": "Mr A B Smith", "First name": "Anna", "Surname": ""},
        {"patient_name": "Mr A B Smith", "first_name": "Anna", "surname": "Smith"},
    ),
    "a name of nothing to see": (
        {"patient_name": "\u200b\u00a0"},
        {"patient_name": None, "first_name": None, "surname": None},
    ),
    "people are called so": ({"patient_name": "Na Null"}, {"first_name": "Na", "surname": "Null"}),
    "nothing is run": (
        {"patient_name": "{{ x }}, =1+1 {% raw %}"},
        {"patient_name": "{{ x }}, =1+1 {% raw %}", "first_name": "=1+1", "surname": "{{ x }}"},
    ),
}


@pytest.fixture(scope="module")
def contacts(tmp_path_factory: pytest.TempPathFactory) -> Planned:
    lines = [patient(number, **cells) for number, (cells, _) in enumerate(CONTACTS.values())]
    return sorted_lines(tmp_path_factory.mktemp("contacts"), *lines)


@pytest.mark.parametrize("case", CONTACTS)
def test_a_line_becomes_a_patient(contacts: Planned, case: str) -> None:
    _, wanted = CONTACTS[case]
    row = contacts.patients[2 + list(CONTACTS).index(case)]
    assert {name: row[name] for name in wanted} == wanted


def test_what_was_mended_or_is_unusable_is_counted(tmp_path: Path) -> None:
    mended = ["7700900001", "+44 (0) 7700 900001", "O77OO9OOOO1", "7700900001.0"]
    unusable = [LANDLINE, PAGER, FOREIGN, "4.47701E+11", f"{mobile(1)} / {mobile(2)}"]
    addresses = {
        EMAIL: "good",
        f"<{EMAIL}>": "mended",
        "ash at example.org": "bad",
        f"{EMAIL} (wife)": "bad",
        "-": "none",
    }
    cells = [{"mobile": cell} for cell in [*mended, "07700900001", "", *unusable]]
    cells += [{"email": cell} for cell in addresses]
    counted = sorted_lines(tmp_path, *(patient(number, **own) for number, own in enumerate(cells))).sorted
    assert counted.unusable_numbers == len(unusable)
    assert counted.bad_emails == 2
    assert counted.lines == counted.patients == len(cells)
    assert counted.mended["phone"] == len(mended) + 1  # and the spaces of a landline
    assert counted.mended["email"] == 2  # a word for nothing counts, too


# ---- what is rejected --------------------------------------------------------------------------------------------------

REJECTED = {
    "no number": ({"nhs_number": " - "}, "nhs_number_missing", None),
    "a wrong check digit": ({"nhs_number": "9990000011"}, "nhs_number_invalid", "check digit is wrong"),
    "one digit too few": ({"nhs_number": "999 000 001"}, "nhs_number_invalid", "9 digits"),
    "one digit ten times": ({"nhs_number": "1111111111"}, "nhs_number_invalid", "the same digit ten times"),
    "lost digits": ({"nhs_number": "9.99E+09"}, "nhs_number_invalid", "scientific notation: digits were lost"),
    "no such day": ({"date_of_birth": "31/02/1980"}, "date_of_birth_invalid", "no such day"),
    "tomorrow": ({"date_of_birth": "02/10/2026"}, "date_of_birth_invalid", "in the future"),
    "too long ago": ({"date_of_birth": "31/12/1899"}, "date_of_birth_invalid", "before 1900"),
    "month first": ({"date_of_birth": "12/31/1980"}, "date_of_birth_invalid", "no such day"),
    "both wrong": ({"nhs_number": "1", "date_of_birth": "x"}, "nhs_number_invalid", "1 digit"),
}


@pytest.fixture(scope="module")
def faulty(tmp_path_factory: pytest.TempPathFactory) -> Planned:
    """Nothing but rejected lines: a batch that still gets its plan."""
    lines = [patient(number, **cells) for number, (cells, _, _) in enumerate(REJECTED.values())]
    return sorted_lines(tmp_path_factory.mktemp("faulty"), *lines)


@pytest.mark.parametrize("case", REJECTED)
def test_a_rejected_line_says_why_and_keeps_what_was_typed(faulty: Planned, case: str) -> None:
    cells, reason, detail = REJECTED[case]
    row = faulty.rejected_rows[2 + list(REJECTED).index(case)]
    assert (row["reason"], row["detail"], row["patient_name"]) == (reason, detail, "GREEN, Ash")
    assert {name: row[name] for name in cells} == cells


def test_a_file_of_rejected_lines_alone_has_a_plan_of_nobody(faulty: Planned) -> None:
    assert faulty.patients == {}
    assert faulty.figures["rejected"] == faulty.figures["lines"] == len(REJECTED)
    assert faulty.figures["recipients"] == {"email": 0, "nhs_app": 0, "sms": 0}
    assert tables.broken(connection(), tables.PATIENTS, faulty.files.patients) == {}


@pytest.mark.parametrize(("asked", "rejected"), [(False, {}), (True, {3: "date_of_birth_missing"})])
def test_a_missing_date_of_birth_rejects_only_where_a_link_asks_for_it(
    tmp_path: Path, asked: bool, rejected: dict[int, str]
) -> None:
    world = sorted_lines(tmp_path, patient(0), patient(1, date_of_birth=""), needs_date_of_birth=asked)
    assert world.rejected == rejected


def test_nhs_numbers_alone_are_a_cohort(tmp_path: Path) -> None:
    """No names, no contact details: all are patients, and the NHS App may still reach them."""
    world = Planned(tmp_path, f"NHS No\n{nhs_number(0)}\n\n{nhs_number(1)}\n{nhs_number(0)}\n")
    assert {line: row["nhs_number"] for line, row in world.patients.items()} == {2: nhs_number(0), 4: nhs_number(1)}
    assert world.duplicates == {5: 2}
    assert world.figures["non_contactable"]["not_provided"] == 2


def test_a_patient_is_found_again_however_the_number_is_written(tmp_path: Path) -> None:
    number = nhs_number(0)
    ways = [number, f"{number[:3]} {number[3:6]} {number[6:]}", number.replace("0", "O"), f"{number}.0"]
    world = sorted_lines(tmp_path, *(patient(0, nhs_number=way) for way in ways))
    assert (list(world.patients), world.duplicates) == ([2], {3: 2, 4: 2, 5: 2})
    assert world.patients[2]["nhs_number"] == number


OUR_COLUMNS = (
    *("death", "plain email", "asked email", "plain mobile", "plain mobile mended", "plain telephone", "asked mobile"),
    *(
        "raw",
        "given",
        "born",
        "births",
        "answer",
        "best",
        "kind",
        "e164",
        "mended",
        "detail",
        "valid",
        "kept line",
        "p",
    ),
    *(
        "digest",
        "sms",
        "basic",
        "by sms",
        "characters",
        "held back",
        "address",
        "path",
        "value of first name",
        "c",
        "m",
    ),
)


def test_no_heading_of_the_file_stands_where_a_column_of_ours_is_meant(tmp_path: Path) -> None:
    line = patient(
        0, email="ash@example.org", mobile="tel 1", telephone=mobile(2), **dict.fromkeys(OUR_COLUMNS, "evil")
    )
    plain = patient(0, email="ash@example.org", mobile="tel 1", telephone=mobile(2))
    found = []
    for name, cells in {"ours": line, "plain": plain}.items():
        (tmp_path / name).mkdir()
        world = Planned(tmp_path / name, csv_text([cells]), body="Dear {{ first_name }}", subject="Dear {{ surname }}")
        found.append((world.patients, world.plan, world.queued[1].keys(), world.figures["digest"]))
    assert found[0] == found[1]
    assert found[0][0][2]["mobile"] == e164(2)
