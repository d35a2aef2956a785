"""PDS: what each of its answers means, and how a look-up is repeated."""

import logging
import uuid
from collections.abc import Iterator
from datetime import UTC, date, datetime
from typing import Any

import pytest

from batch_pipeline.errors import Refused
from batch_pipeline.providers.pds import LookUpFailed, Pds, ServiceFailed
from batch_pipeline.providers.protocol import ProviderStopped
from batch_pipeline.rules.demographics import Details
from batch_pipeline_tests.ledger.given import nhs_number
from batch_pipeline_tests.providers import pds_double as pds
from batch_pipeline_tests.providers.nhs_notify_double import Fault, Reply, another_private_key

NOW = datetime(2026, 10, 1, 9, tzinfo=UTC)
ASH, BAY = nhs_number(1), nhs_number(2)
RECORD = pds.record(ASH, pds.mobile("07700 900001"), pds.email("ash@example.org"))
FOUND = Details("found", None, "+447700900001", "ash@example.org")


@pytest.fixture
def double() -> Iterator[pds.PdsDouble]:
    with pds.PdsDouble() as running:
        running.records[ASH] = RECORD
        yield running
    assert running.failures == []


@pytest.fixture
def waits() -> list[float]:
    return []


@pytest.fixture
def service(double: pds.PdsDouble, waits: list[float]) -> Iterator[Pds]:
    made = Pds(double.pds_account(), pace=lambda: None, sleep=waits.append)
    yield made
    made.close()


@pytest.mark.parametrize(
    ("answer", "found"),
    [
        (RECORD, FOUND),
        (pds.record(ASH), Details("found")),
        (pds.record(ASH, pds.mobile("07700 900001", end="2026-09-30")), Details("found")),
        (pds.record(ASH, pds.mobile("07700 900001", start="2026-10-02")), Details("found")),
        *(
            (pds.record(ASH, pds.mobile("07700 900001"), deceasedDateTime=died), Details("deceased"))
            for died in ("2020", "2020-01", "2020-01-31", "2020-01-31T09:00:00+00:00")
        ),
        (pds.record(ASH, deceasedBoolean=True), Details("deceased")),
        (pds.record(ASH, deceasedBoolean=False), Details("found")),
        (pds.record(ASH, extension=[pds.death_notice("1")]), Details("deceased")),
        (pds.record(ASH, extension=[pds.death_notice("2")]), Details("deceased")),
        (pds.record(ASH, extension=[pds.death_notice("U")]), Details("found")),
        (pds.record(ASH, extension=[{"url": "x/Extension-UKCore-DeathNotificationStatus"}]), Details("deceased")),
        (pds.record(ASH, security="R"), Details("restricted")),
        (pds.record(ASH, extension=[pds.removal()]), Details("exit_coded")),
        (pds.record(ASH, extension=[pds.removal(end="2021-01-01T00:00:00+00:00")]), Details("found")),
        (pds.record(BAY, pds.mobile("07700 900001")), Details("found", BAY, "+447700900001")),
        ({"resourceType": "Patient", "id": ASH}, Details("found")),
        (pds.outcome(404, "RESOURCE_NOT_FOUND"), Details("not_found")),
        (pds.outcome(404, "INVALIDATED_RESOURCE"), Details("invalidated")),
        (pds.outcome(400, "INVALID_RESOURCE_ID"), Details("not_found")),
    ],
)
def test_what_an_answer_means(double: pds.PdsDouble, service: Pds, answer: Any, found: Details) -> None:
    double.records[ASH] = answer
    assert service.look_up(ASH, NOW) == found
    assert len(double.requests[ASH]) == 1


@pytest.mark.parametrize(
    "fault",
    [
        Fault(answer=pds.outcome(429, "TOO_MANY_REQUESTS")),
        Fault(answer=pds.outcome(503, "SERVICE_UNAVAILABLE", Retry_After="5")),
        Fault(answer=Reply(500, b"")),
        Fault(answer=Reply(502, b"<html>")),
        Fault(drop="before"),
        Fault(drop="after"),
    ],
)
def test_a_call_is_repeated_under_its_id(double: pds.PdsDouble, service: Pds, waits: list[float], fault: Fault) -> None:
    double.plan("accounts", fault, fault)
    assert service.look_up(ASH, NOW) == FOUND
    assert len(set(double.requests[ASH])) == 1
    told_to_wait = fault.answer is not None and "Retry-After" in fault.answer.headers
    assert waits == ([5, 5] if told_to_wait else [1, 2])


def test_every_look_up_has_an_id_of_its_own(double: pds.PdsDouble, service: Pds) -> None:
    service.look_up(ASH, NOW)
    service.look_up(ASH, NOW)
    assert len({uuid.UUID(given) for given in double.requests[ASH]}) == 2


def test_the_id_stays_the_same_over_calls_that_the_service_saw(double: pds.PdsDouble, service: Pds) -> None:
    double.plan("accounts", *[Fault(drop="after")] * 3)
    service.look_up(ASH, NOW)
    assert (len(double.requests[ASH]), len(set(double.requests[ASH]))) == (4, 1)


def test_repeating_has_an_end(double: pds.PdsDouble, service: Pds, waits: list[float]) -> None:
    double.down = True
    with pytest.raises(LookUpFailed, match="PDS answered 503"):
        service.look_up(ASH, NOW)
    assert (len(double.requests[ASH]), waits) == (4, [5, 5, 5])


def test_each_call_keeps_to_the_pace(double: pds.PdsDouble) -> None:
    booked: list[int] = []
    service = Pds(double.pds_account(), pace=lambda: booked.append(1), sleep=lambda _: None)
    double.plan("accounts", Fault(answer=Reply(500, b"")))
    service.look_up(ASH, NOW)
    assert len(booked) == 2
    service.close()


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (pds.outcome(200, "TOO_MANY_MATCHES"), "answered 200 with TOO_MANY_MATCHES"),
        (Reply(200, b"<html>"), "something else"),
        (Reply(200, {"resourceType": "Bundle"}), "something else"),
        (Reply(200, {**RECORD, "id": "1"}), "without an NHS number"),
        (Reply(200, {**RECORD, "telecom": "none"}), "something else"),
        (Reply(501, b""), "501"),
    ],
)
def test_no_record_is_a_failure_without_a_retry(
    double: pds.PdsDouble, service: Pds, waits: list[float], answer: Reply, reason: str
) -> None:
    double.records[ASH] = answer
    with pytest.raises(LookUpFailed, match=reason) as raised:
        service.look_up(ASH, NOW)
    assert waits == []
    assert not [word for word in (ASH, "Green", "07700") if word in str(raised.value)]


def test_an_answer_to_another_question_is_asked_for_again(double: pds.PdsDouble, service: Pds) -> None:
    """It would be taken for what has superseded the number: one patient's message would go to another."""
    anothers = Reply(200, pds.record(BAY, pds.mobile("07700 900002")), {"X-Request-Id": str(uuid.uuid4())})
    double.plan("accounts", Fault(answer=anothers))
    assert service.look_up(ASH, NOW) == FOUND
    assert len(double.requests[ASH]) == 1


@pytest.mark.parametrize(
    ("born", "told", "found"),
    [
        (date(1980, 1, 31), "1980-01-31", "found"),
        (date(1980, 1, 31), "1980-01", "found"),
        (date(1980, 1, 31), "1980", "found"),
        (date(1980, 1, 31), None, "found"),
        (None, "1980-01-31", "found"),
        (date(1980, 1, 31), "1980-01-13", "other_person"),
        (date(1980, 1, 31), "1981", "other_person"),
        (date(1980, 1, 31), "31/01/1980", "other_person"),
    ],
)
@pytest.mark.parametrize("number", [ASH, BAY])
def test_somebody_of_another_date_of_birth_is_somebody_else(
    double: pds.PdsDouble, service: Pds, number: str, born: date | None, told: str | None, found: str
) -> None:
    double.records[ASH] = pds.record(number, pds.mobile("07700 900001"), birthDate=told)
    details = service.look_up(ASH, NOW, born)
    assert details.outcome == found
    assert (details.mobile is None) == (found != "found")


def test_no_log_of_whatever_level_names_a_patient(
    double: pds.PdsDouble, service: Pds, caplog: pytest.LogCaptureFixture
) -> None:
    """The number is in the address that is called, and httpx tells addresses."""
    with caplog.at_level(logging.DEBUG):
        service.look_up(ASH, NOW)
    assert [record.name for record in caplog.records if ASH in record.getMessage()] == []


def test_a_turn_that_was_long_in_coming_takes_no_time_from_the_call(double: pds.PdsDouble) -> None:
    passed = 0.0

    def pace() -> None:
        nonlocal passed
        passed += 3600

    service = Pds(double.pds_account(), pace=pace, steady=lambda: passed, sleep=lambda _: None)
    assert service.look_up(ASH, NOW) == FOUND
    service.close()


@pytest.mark.parametrize(
    ("answer", "of_the_service"),
    [
        (Reply(500, b""), True),
        (Reply(501, b""), True),
        (Reply(200, b"<html>"), True),
        (pds.outcome(429, "TOO_MANY_REQUESTS"), True),
        (pds.outcome(200, "TOO_MANY_MATCHES"), False),
        (Reply(200, {**RECORD, "id": "1"}), False),
    ],
)
def test_a_failure_of_the_service_is_told_from_one_of_the_record(
    double: pds.PdsDouble, service: Pds, answer: Reply, *, of_the_service: bool
) -> None:
    double.records[ASH] = answer
    with pytest.raises(LookUpFailed) as raised:
        service.look_up(ASH, NOW)
    assert isinstance(raised.value, ServiceFailed) == of_the_service


def test_a_refused_token_is_renewed_once(double: pds.PdsDouble, service: Pds) -> None:
    service.look_up(ASH, NOW)
    double.revoke_tokens()
    assert service.look_up(ASH, NOW) == FOUND
    assert double.asked["token"] == 2


@pytest.mark.parametrize(
    ("answer", "mend"),
    [
        (pds.outcome(401, "ACCESS_DENIED"), "check the pds API key"),
        (pds.outcome(403, "FORBIDDEN"), "403 FORBIDDEN: check the pds API key"),
        (pds.outcome(400, "MISSING_VALUE"), "400 MISSING_VALUE: check pds.base_url"),
        (Reply(404, b"<html>"), "check pds.base_url"),
        (Reply(302, b"", {"Location": "https://example.test"}), "check pds.base_url"),
    ],
)
def test_what_no_patient_can_help_stops(double: pds.PdsDouble, service: Pds, answer: Reply, mend: str) -> None:
    double.records[ASH] = answer
    with pytest.raises(ProviderStopped, match=mend):
        service.look_up(ASH, NOW)


def test_a_key_that_is_not_registered_stops(double: pds.PdsDouble) -> None:
    service = Pds(double.pds_account(private_key=another_private_key()), pace=lambda: None)
    with pytest.raises(ProviderStopped, match=r"PDS gives no token \(401 invalid_client\): check pds\.key_id"):
        service.look_up(ASH, NOW)
    service.close()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"base_url": "http://pds.example"}, "pds.base_url must begin with https"),
        ({"api_key": " "}, "pds: the API key is empty"),
        ({"token_url": "nowhere"}, "pds.token_url"),
    ],
)
def test_an_account_that_cannot_be_right_is_refused(double: pds.PdsDouble, changes: dict[str, str], said: str) -> None:
    with pytest.raises(Refused, match=said):
        double.pds_account(**changes)


def test_a_private_key_that_is_none_is_told_by_its_group(double: pds.PdsDouble) -> None:
    with pytest.raises(Refused, match="pds: the private key"):
        Pds(double.pds_account(private_key="none"), pace=lambda: None)


def test_an_application_keeps_one_pace_however_its_address_is_written(double: pds.PdsDouble) -> None:
    written = {double.pds_account(base_url=f"{double.host}{end}").application for end in ("", "/")}
    assert len(written) == 1
    assert double.pds_account(api_key="another").application not in written


def test_an_account_shows_no_key(double: pds.PdsDouble) -> None:
    account = double.pds_account()
    assert account.api_key not in repr(account)
    assert "PRIVATE" not in repr(account)
