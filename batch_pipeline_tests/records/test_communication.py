"""Each kind of entry as a resource, and what keeps one out of the record."""

import json
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batch_pipeline.records.communication import Message, Sender, communication
from batch_pipeline.records.validity import STATUSES, NotValid, check
from batch_pipeline.records.writer import IDENTIFIERS, our_identifiers
from batch_pipeline_tests.ledger.given import nhs_number

SENDER = Sender("A99999", "Larkfield Surgery", ["1324681000000101", "75367002"])
SENT, RECEIVED = datetime(2026, 10, 1, 9, tzinfo=UTC), datetime(2026, 10, 1, 9, 5, 0, 250_000, tzinfo=UTC)
TEXT = Message("flu:1a2b3c4d:2:primary", "sms", "completed", nhs_number(2), "Your flu jab is due.\nRing us.")
KINDS = {
    "a text that arrived": replace(TEXT, sent=SENT, received=RECEIVED),
    "an App message nobody read": replace(TEXT, channel="nhs_app", sent=SENT),
    "its fallback": replace(TEXT, reference="flu:1a2b3c4d:2:fallback", sent=SENT, follows=TEXT.reference),
    "an email": replace(TEXT, channel="email", subject="Your flu jab", sent=SENT),
    "a text that failed": replace(TEXT, status="not-done", sent=SENT, because="Not delivered: permanent failure"),
    "a text that was refused": replace(TEXT, status="not-done", because="Not delivered: refused by the provider"),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("sender", [SENDER, replace(SENDER, snomed=[])], ids=["coded", "uncoded"])
def test_every_kind_of_entry_is_valid(kind: str, sender: Sender) -> None:
    resource = communication(sender, KINDS[kind])
    check(resource)
    assert our_identifiers(resource) == [KINDS[kind].reference]
    assert None not in resource.values()
    assert ("reasonCode" in resource) == bool(sender.snomed)


def test_an_entry_tells_all_there_is_to_tell() -> None:
    message = replace(KINDS["its fallback"], received=RECEIVED, subject="Your flu jab")
    assert communication(SENDER, message) == {
        "resourceType": "Communication",
        "identifier": [{"system": IDENTIFIERS, "value": "flu:1a2b3c4d:2:fallback"}],
        "inResponseTo": [
            {"type": "Communication", "identifier": {"system": IDENTIFIERS, "value": "flu:1a2b3c4d:2:primary"}}
        ],
        "status": "completed",
        "medium": [
            {
                "coding": [
                    {
                        "system": "http://terminology.hl7.org/CodeSystem/v3-ParticipationMode",
                        "code": "WRITTEN",
                        "display": "written",
                    }
                ],
                "text": "SMS",
            }
        ],
        "subject": {
            "type": "Patient",
            "identifier": {"system": "https://fhir.nhs.uk/Id/nhs-number", "value": nhs_number(2)},
        },
        "topic": {"text": "Your flu jab"},
        "sent": "2026-10-01T09:00:00.000+00:00",
        "received": "2026-10-01T09:05:00.250+00:00",
        "sender": {
            "type": "Organization",
            "identifier": {"system": "https://fhir.nhs.uk/Id/ods-organization-code", "value": "A99999"},
            "display": "Larkfield Surgery",
        },
        "reasonCode": [
            {"coding": [{"system": "http://snomed.info/sct", "code": "1324681000000101"}]},
            {"coding": [{"system": "http://snomed.info/sct", "code": "75367002"}]},
        ],
        "payload": [{"contentString": "Your flu jab is due.\nRing us."}],
    }


def test_a_failure_tells_why_and_not_that_anything_was_received() -> None:
    resource = communication(SENDER, KINDS["a text that was refused"])
    assert resource["statusReason"] == {"text": "Not delivered: refused by the provider"}
    assert not {"sent", "received"} & resource.keys()


def test_characters_that_fhir_forbids_are_left_out() -> None:
    resource = communication(SENDER, replace(TEXT, text="a\x00b\x07c\td\r\ne", subject="f\x1bg"))
    assert resource["payload"] == [{"contentString": "abc\td\r\ne"}]
    assert resource["topic"] == {"text": "fg"}
    check(resource)


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(lambda text: any(map(str.isalnum, text))))
def test_whatever_the_words_the_entry_is_valid_and_one_line(text: str) -> None:
    resource = communication(SENDER, replace(TEXT, text=text, subject=text))
    check(resource)
    assert "\n" not in json.dumps(resource, ensure_ascii=False)


GOOD = communication(SENDER, KINDS["a text that arrived"])


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"status": "sent"}, "status"),
        ({"status": None}, "status"),
        ({"status": "Completed"}, "status"),
        ({"resourceType": "Patient"}, "resourceType"),
        ({"identifier": []}, "identifier"),
        ({"identifier": [{"system": "urn:another", "value": "x"}]}, "identifier"),
        ({"identifier": [{"system": IDENTIFIERS, "value": "x"}, {"system": IDENTIFIERS, "value": "y"}]}, "identifier"),
        ({"payload": [{}]}, "payload"),
        ({"payload": [{"contentString": ""}]}, "payload.contentString"),
        ({"sent": "1 October"}, "sent"),
        ({"sent": "2026-10-01T09:00:00"}, "sent"),
        ({"medium": {"text": "SMS"}}, "medium"),
        ({"reasonCode": [{"coding": [{"code": "a  b"}]}]}, "reasonCode.coding.code"),
        ({"channel": "sms"}, "channel"),
    ],
)
def test_what_is_not_valid_is_named_by_its_elements_alone(change: dict[str, Any], named: str) -> None:
    with pytest.raises(NotValid) as invalid:
        check({**GOOD, **change})
    assert str(invalid.value) == named


def test_a_status_is_one_of_fhir_s() -> None:
    for status in STATUSES["Communication"]:
        check({**GOOD, "status": status})
    assert len(STATUSES["Communication"]) == 8


def test_nothing_personal_is_shown() -> None:
    assert nhs_number(2) not in repr(TEXT)
    assert "flu jab" not in repr(KINDS["an email"])
