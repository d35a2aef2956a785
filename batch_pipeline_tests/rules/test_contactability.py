"""The reasons as expressions over one patient's facts: each alone, and all in their order."""

import itertools
from typing import Any

import duckdb
import pytest

from batch_pipeline.rules import contactability, reasons

FACTS: dict[str, str] = {
    "path": "'sms'",
    "deceased": "false",
    "mark": "NULL::VARCHAR",
    "opted_out": "[]::VARCHAR[]",
    "email": "NULL::VARCHAR",
    "has_app": "false",
    "mobile": "'+447700900001'",
    "phone_kind": "'mobile'",
    "likely": "false",
    "looked_up": "NULL::VARCHAR",
    "begun": "NULL::VARCHAR",
    "marked_by_pds": "NULL::BOOLEAN",
}
"""Of a patient who can be texted."""
NO_NUMBER = {"mobile": "NULL", "phone_kind": "'none'"}
EMAIL = {"email": "'ash@example.org'"}

_connection = duckdb.connect()


def judged(expression: str, **known: str) -> Any:
    columns = ", ".join(f"{value} AS {name}" for name, value in {**FACTS, **known}.items())
    return _connection.sql(f"SELECT {expression} FROM (SELECT {columns})").fetchall()[0][0]


def found(**known: str) -> list[str]:
    return judged(contactability.reasons_sql(), **known)


def out(*channels: str) -> dict[str, str]:
    return {"opted_out": f"{list(channels)}"}


@pytest.mark.parametrize(
    ("known", "wanted"),
    [
        ({}, []),
        ({"deceased": "true"}, ["deceased"]),
        ({"deceased": "true", "path": "'email'"}, ["deceased"]),
        ({"mark": "'deceased'"}, ["deceased"]),
        ({"mark": "'invalidated'"}, ["unable_to_retrieve"]),
        ({"mark": "'exit_coded'", "path": "'nhs_app'"}, ["unable_to_retrieve"]),
        # look-ups
        ({"looked_up": "'found'"}, []),
        ({**NO_NUMBER, "looked_up": "'found'"}, ["not_provided"]),
        ({"looked_up": "'deceased'", "path": "'email'"}, ["deceased"]),
        ({"looked_up": "'restricted'", "path": "'email'"}, ["unable_to_retrieve"]),
        ({"looked_up": "'invalidated'"}, ["unable_to_retrieve"]),
        ({"looked_up": "'exit_coded'"}, ["unable_to_retrieve"]),
        ({**NO_NUMBER, "looked_up": "'failed'"}, ["unable_to_retrieve", "not_provided"]),
        ({**NO_NUMBER, "looked_up": "'not_found'"}, ["unable_to_retrieve", "not_provided"]),
        ({**NO_NUMBER, "looked_up": "'other_person'"}, ["unable_to_retrieve", "not_provided"]),
        ({"looked_up": "'other_person'", "path": "'email'"}, []),
        ({"likely": "true", "looked_up": "'failed'"}, ["unable_to_retrieve", "likely_to_fail"]),
        ({"looked_up": "'failed'"}, []),
        ({**NO_NUMBER, "looked_up": "'failed'", "path": "'nhs_app'"}, []),
        ({"phone_kind": "'none'", "mobile": "NULL"}, ["not_provided"]),
        ({"phone_kind": "'landline'", "mobile": "NULL"}, ["not_provided"]),
        ({"phone_kind": "'not_mobile'", "mobile": "NULL"}, ["not_provided"]),
        ({"phone_kind": "'not_uk'", "mobile": "NULL"}, ["not_uk"]),
        ({"likely": "true"}, ["likely_to_fail"]),
        # only a path that needs the number asks for it
        ({**NO_NUMBER, "path": "'email'"}, []),
        ({**NO_NUMBER, "path": "'nhs_app'"}, []),
        ({"likely": "true", "path": "'nhs_app'"}, []),
        # opt-outs
        (out("all"), ["opted_out"]),
        ({**out("all"), "path": "'email'"}, ["opted_out"]),
        (out("sms"), ["opted_out"]),
        ({**out("sms"), "path": "'email'"}, []),
        ({**out("sms"), **NO_NUMBER}, ["opted_out", "not_provided"]),
        ({**out("email"), **EMAIL}, []),
        ({**out("email"), **EMAIL, **NO_NUMBER}, ["opted_out", "not_provided"]),
        ({**out("email"), **EMAIL, "likely": "true"}, ["opted_out", "likely_to_fail"]),
        ({**out("email"), **NO_NUMBER}, ["not_provided"]),
        ({**out("nhs_app"), "has_app": "true", **NO_NUMBER}, ["opted_out", "not_provided"]),
        ({**out("nhs_app"), **NO_NUMBER}, ["not_provided"]),
    ],
)
def test_each_reason_holds_when_it_should(known: dict[str, str], wanted: list[str]) -> None:
    assert found(**known) == wanted


def test_reasons_stand_in_the_order_of_the_spec() -> None:
    holding = {
        "deceased": {"deceased": "true"},
        "unable_to_retrieve": {"mark": "'invalidated'"},
        "opted_out": out("all"),
        "not_uk": {"phone_kind": "'not_uk'"},
        "likely_to_fail": {"likely": "true"},
    }
    for size in range(len(holding) + 1):
        for chosen in itertools.combinations(holding, size):
            known = {name: value for code in chosen for name, value in holding[code].items()}
            assert found(**known) == [code for code in reasons.CODES if code in chosen]


def test_there_is_a_condition_for_every_reason_in_their_order() -> None:
    assert tuple(contactability.CONDITIONS) == reasons.CODES


@pytest.mark.parametrize(
    ("known", "sub_reason"),
    [
        ({}, None),
        ({"phone_kind": "'landline'"}, "landline_only"),
        ({"phone_kind": "'not_mobile'"}, "not_mobile"),
        ({"phone_kind": "'none'"}, None),
        ({"phone_kind": "'not_uk'"}, None),
        ({"mark": "'exit_coded'", "phone_kind": "'landline'"}, "exit_coded"),
        ({"mark": "'invalidated'"}, "invalidated"),
        ({"mark": "'exit_coded'", "looked_up": "'failed'", **NO_NUMBER}, "exit_coded"),
        ({"looked_up": "'failed'", **NO_NUMBER}, "look_up_failed"),
        ({"looked_up": "'not_found'", **NO_NUMBER}, "not_found"),
        ({"looked_up": "'other_person'", **NO_NUMBER}, "other_person"),
        ({"looked_up": "'restricted'"}, "restricted"),
        ({"looked_up": "'invalidated'"}, "invalidated"),
        ({"looked_up": "'exit_coded'"}, "exit_coded"),
        ({"looked_up": "'deceased'", **NO_NUMBER}, None),
        ({"deceased": "true", "mark": "'invalidated'", "phone_kind": "'landline'"}, None),
        ({**out("all"), "phone_kind": "'landline'"}, None),
    ],
)
def test_the_sub_reason_is_of_the_primary_reason(known: dict[str, str], sub_reason: str | None) -> None:
    sql = contactability.sub_reason_sql(f"({contactability.reasons_sql()})")
    assert judged(sql, **known) == sub_reason
    assert sub_reason is None or reasons.SUB_REASON[sub_reason].reason == found(**known)[0]


@pytest.mark.parametrize("channel", ["email", "nhs_app", "sms", "all"])
def test_opted_out_of_a_channel_its_detail_is_unusable(channel: str) -> None:
    known = {**EMAIL, "has_app": "true", **out(channel)}
    usable = {
        "email": judged(contactability.USABLE_EMAIL, **known) is not None,
        "nhs_app": judged(contactability.APP_OPEN, **known),
        "sms": judged(contactability.USABLE_MOBILE, **known) is not None,
    }
    assert usable == {each: channel not in (each, "all") for each in usable}


def test_a_number_likely_to_fail_is_unusable() -> None:
    assert judged(contactability.USABLE_MOBILE, likely="true") is None


@pytest.mark.parametrize(
    ("known", "wanted"),
    [
        # the path needs a number, and there is none that can be used
        (NO_NUMBER, True),
        ({"mobile": "NULL", "phone_kind": "'landline'"}, True),
        ({"mobile": "NULL", "phone_kind": "'not_uk'"}, True),
        ({"likely": "true"}, True),
        ({**NO_NUMBER, **EMAIL}, True),  # self-book: by SMS whatever the email
        ({**NO_NUMBER, **out("email"), **EMAIL}, True),
        ({**NO_NUMBER, **out("nhs_app"), "has_app": "true"}, True),
        # nothing is missing
        ({}, False),
        ({**NO_NUMBER, "path": "'email'"}, False),
        ({**NO_NUMBER, "path": "'nhs_app'"}, False),
        ({"likely": "true", "path": "'nhs_app'"}, False),
        # nobody is looked up who gets nothing anyway, or whose message is under way
        ({**NO_NUMBER, "deceased": "true"}, False),
        ({**NO_NUMBER, **out("all")}, False),
        ({**NO_NUMBER, **out("sms")}, False),
        ({**NO_NUMBER, "begun": "'sms'"}, False),
        *(({**NO_NUMBER, "mark": f"'{mark}'"}, False) for mark in ("deceased", "invalidated", "exit_coded")),
        ({**NO_NUMBER, "mark": "'deceased'", "marked_by_pds": "false"}, False),
        # what a look-up said is asked again, whatever the file has
        ({"mark": "'deceased'", "marked_by_pds": "true"}, True),
        ({"mark": "'exit_coded'", "marked_by_pds": "true", "path": "'email'"}, True),
        ({"mark": "'exit_coded'", "marked_by_pds": "true", **out("all")}, False),
        ({"mark": "'exit_coded'", "marked_by_pds": "true", "deceased": "true"}, False),
    ],
)
def test_who_is_looked_up(known: dict[str, str], wanted: bool) -> None:
    assert judged(contactability.GAP, **known) is wanted
