"""The real providers' readers behind the gateway's seam."""

import hashlib
import hmac
import json

import pytest

from batch_pipeline.gateway.callbacks import Malformed, NotAllowed, NotAuthenticated, Reading
from batch_pipeline.gateway.readers import GovukNotifyCallbacks, NhsNotifyCallbacks
from batch_pipeline_tests.gateway.serving import status_body

NHS = NhsNotifyCallbacks("an-application", "an api key")
GOVUK = GovukNotifyCallbacks("a bearer token")
BODY = status_body("flu:1:primary", "flu:2:primary")


def _signed(body: bytes, key: bytes = b"an-application.an api key") -> dict[str, str]:
    signature = hmac.new(key, body, hashlib.sha256).hexdigest()
    return {"x-api-key": "an api key", "x-hmac-sha256-signature": signature}


def _govuk(**changes: object) -> bytes:
    told = {
        "id": "740e5834-3a29-46b4-9a6f-16142fde533a",
        "reference": "flu:1:primary",
        "to": "07700900123",
        "status": "delivered",
        "completed_at": "2026-10-01T09:00:00.000000Z",
    }
    return json.dumps(told | changes).encode()


def test_nhs_notify_s_own_call_is_read() -> None:
    NHS.admit(_signed(BODY))
    assert [receipt.reference for receipt in NHS.read(_signed(BODY), BODY).receipts] == [
        "flu:1:primary",
        "flu:2:primary",
    ]


def test_an_item_of_nhs_notify_s_that_cannot_be_read_is_given_beside_the_others() -> None:
    data = json.loads(BODY)["data"]
    odd = {"type": "MessageStatus", "attributes": None}
    body = json.dumps({"data": [odd, *data]}).encode()
    reading = NHS.read(_signed(body), body)
    assert (len(reading.receipts), [json.loads(item) for item in reading.unread]) == (2, [odd])


@pytest.mark.parametrize("headers", [{}, {"x-api-key": "a guess"}, {"x-api-key": ""}])
def test_nhs_notify_s_key_is_asked_for_before_the_body(headers: dict[str, str]) -> None:
    with pytest.raises(NotAuthenticated):
        NHS.admit(headers)


@pytest.mark.parametrize("headers", [_signed(BODY + b" "), _signed(BODY, b"an api key"), {"x-api-key": "an api key"}])
def test_nhs_notify_s_signature_is_over_the_raw_body(headers: dict[str, str]) -> None:
    NHS.admit(headers)
    with pytest.raises(NotAllowed):
        NHS.read(headers, BODY)


def test_govuk_notify_s_own_call_is_read() -> None:
    GOVUK.admit({"authorization": "Bearer a bearer token"})
    assert [receipt.reference for receipt in GOVUK.read({}, _govuk()).receipts] == ["flu:1:primary"]
    assert GOVUK.read({}, _govuk(status="sending")) == Reading()


@pytest.mark.parametrize("headers", [{}, {"authorization": "Bearer a guess"}, {"authorization": "a bearer token"}])
def test_govuk_notify_s_token_is_asked_for_before_the_body(headers: dict[str, str]) -> None:
    with pytest.raises(NotAuthenticated):
        GOVUK.admit(headers)


def test_what_is_no_callback_is_malformed() -> None:
    for body in (b"", b"[]", b'{"data": 1}'):
        with pytest.raises(Malformed):
            NHS.read(_signed(body), body)
        with pytest.raises(Malformed):
            GOVUK.read({}, body)


def test_secrets_are_asked_for_and_not_shown() -> None:
    for made in (
        lambda: NhsNotifyCallbacks("", "k"),
        lambda: NhsNotifyCallbacks("a", ""),
        lambda: GovukNotifyCallbacks(""),
    ):
        with pytest.raises(ValueError, match="need"):
            made()
    assert "an api key" not in repr(NHS)
    assert "a bearer token" not in repr(GOVUK)
