from itertools import product

import duckdb
import pytest

from batch_pipeline.rules.paths import TABLE, choose, path_sql, print_table

# As it stands in the SPEC, 2.4.
SPEC_TABLE = """\
| organisation | message | email in CSV | no email, has the NHS App | neither |
| --- | --- | --- | --- | --- |
| GP | simple, questionnaire | email | nhs_app | sms |
| GP | self_book | sms | nhs_app | sms |
| non-GP | simple, questionnaire | email | sms | sms |
| non-GP | self_book | sms | sms | sms |"""

ORGANISATIONS = ("gp", "non_gp")
NATIONS = ("england", "scotland", "wales", "northern_ireland")
MESSAGES = ("simple", "questionnaire", "self_book")
BOOLS = (False, True)


def oracle(organisation: str, nation: str, message: str, email: bool, app: bool, ignores_email: bool) -> str:
    """By hand from SPEC 2.4, not from the code."""
    if message == "self_book":
        if email and not ignores_email:
            return "sms"
    elif email:
        return "email"
    return "nhs_app" if app and organisation == "gp" and nation == "england" else "sms"


def test_the_table_prints_as_in_the_spec() -> None:
    assert print_table() == SPEC_TABLE


@pytest.mark.parametrize("case", list(product(ORGANISATIONS, NATIONS, MESSAGES, BOOLS, BOOLS, BOOLS)))
def test_every_case_takes_the_path_of_the_spec(case: tuple[str, str, str, bool, bool, bool]) -> None:
    organisation, nation, message, email, app, ignores = case
    choice = choose(organisation, nation, message, has_email=email, has_app=app, self_book_ignores_email=ignores)
    assert choice.path == oracle(*case)
    assert choice.rule.endswith(f"→ {choice.path}")


def test_sql_chooses_as_python_does_and_takes_null_for_no() -> None:
    con = duckdb.connect()
    con.execute(
        "CREATE TABLE known AS SELECT e, a FROM (VALUES (true), (false), (NULL)) x(e), (VALUES (true), (false), (NULL)) y(a)"
    )
    for organisation, nation, message, ignores in product(ORGANISATIONS, NATIONS, MESSAGES, BOOLS):
        path, rule = path_sql(organisation, nation, message, email="e", app="a", self_book_ignores_email=ignores)
        for e, a, *found in con.sql(f"SELECT e, a, {path}, {rule} FROM known").fetchall():
            wanted = choose(
                organisation, nation, message, has_email=bool(e), has_app=bool(a), self_book_ignores_email=ignores
            )
            assert tuple(found) == wanted


@pytest.mark.parametrize(
    ("case", "rule"),
    [
        (("gp", "england", "simple", True, True, False), "gp · simple · email in CSV → email"),
        (("gp", "england", "self_book", True, True, False), "gp · self_book · email in CSV → sms"),
        (
            ("gp", "england", "self_book", True, True, True),
            "gp · self_book · no email, has the NHS App (email ignored by the workspace's switch) → nhs_app",
        ),
        (
            ("gp", "wales", "simple", False, True, False),
            "gp · simple · no email, has the NHS App (the NHS App is closed in wales) → sms",
        ),
        (("non_gp", "england", "simple", False, True, False), "non_gp · simple · no email, has the NHS App → sms"),
        (("gp", "england", "simple", False, False, False), "gp · simple · neither → sms"),
    ],
)
def test_the_rule_names_the_cell_of_the_table(case: tuple[str, str, str, bool, bool, bool], rule: str) -> None:
    organisation, nation, message, email, app, ignores = case
    found = choose(organisation, nation, message, has_email=email, has_app=app, self_book_ignores_email=ignores)
    assert found.rule == rule


def test_the_table_has_one_line_for_every_organisation_and_message() -> None:
    lines = [(row.organisation_type, message) for row in TABLE for message in row.message_types]
    assert sorted(lines) == sorted(product(ORGANISATIONS, MESSAGES))


def test_what_the_table_does_not_have_is_an_error() -> None:
    with pytest.raises(LookupError, match="letter"):
        choose("gp", "england", "letter", has_email=True, has_app=True)
