import hashlib
import hmac
import json
import random
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter
from typing_extensions import override

from batch_pipeline.ledger import unread
from batch_pipeline.providers import nhs_notify_receipts
from batch_pipeline.providers.nhs_notify_receipts import NotACallback, Verdict, read_again, read_callback, verify
from batch_pipeline.providers.protocol import Receipt
from batch_pipeline.rules.failure_codes import mark_of
from batch_pipeline.sending import receipts
from batch_pipeline.sending.unread_news import UnreadNews
from batch_pipeline_tests.ledger.given import NOW, Recipient, attempt_rows, begin, open_ledger, queue
from batch_pipeline_tests.providers.nhs_notify_double import channel_status, message_status, push, signed

AT = datetime(2026, 11, 22, 14, 27, 51, 413_000, UTC)
APPLICATION, KEY = "app-1", "0bb04a0e-d005-42dd-8993-dacf37410a12"


def body(*news: Any) -> bytes:
    return json.dumps({"data": list(news)}).encode()


def read(*news: Any) -> list[tuple[str, str | None, str | None]]:
    """Kind, failure kind and failure code of each receipt."""
    return [(told.kind, told.failure_kind, told.failure_code) for told in read_callback(body(*news)).receipts]


# Channels

DELIVERED = ("delivered", None, None)
READ = ("read", None, None)


def failed(kind: str, code: str | None = None) -> tuple[str, str | None, str | None]:
    return ("failed", kind, code)


CHANNELS: list[tuple[str, str, str, tuple[str, str | None, str | None] | None]] = [
    # The contract's "Statuses": the App
    ("nhsapp", "delivered", "read", READ),
    ("nhsapp", "sending", "read", READ),
    ("nhsapp", "sending", "delivered", DELIVERED),
    ("nhsapp", "delivered", "delivered", DELIVERED),
    ("nhsapp", "sending", "notified", None),
    ("nhsapp", "sending", "notification_attempted", None),
    ("nhsapp", "delivered", "notified", None),
    ("nhsapp", "delivered", "notification_attempted", None),
    ("nhsapp", "sending", "unnotified", failed("rejected")),
    ("nhsapp", "failed", "unnotified", failed("rejected")),
    ("nhsapp", "failed", "rejected", failed("rejected")),
    ("nhsapp", "failed", "notification_attempted", failed("permanent")),
    # SMS and email
    *[
        (channel, status, supplier, fate)
        for channel in ("sms", "email")
        for status, supplier, fate in [
            ("delivered", "delivered", DELIVERED),
            ("sending", "delivered", DELIVERED),
            ("failed", "temporary_failure", failed("temporary")),
            ("failed", "technical_failure", failed("technical")),
            ("failed", "permanent_failure", failed("permanent")),
            ("sending", "temporary_failure", failed("temporary")),
            ("delivered", "read", DELIVERED),
        ]
    ],
    # All other statuses of the contract change nothing
    *[
        ("sms", "sending", supplier, None)
        for supplier in ("received", "accepted", "cancelled", "pending_virus_check", "validation_failed", "unknown")
    ],
    *[("sms", status, "accepted", None) for status in ("created", "sending", "skipped")],
    # The channel's word where the supplier's says nothing
    ("sms", "failed", "cancelled", failed("permanent")),
    ("nhsapp", "failed", "unknown", failed("permanent")),
    ("sms", "delivered", "unknown", DELIVERED),
    ("nhsapp", "delivered", "unknown", DELIVERED),
    # What isn't known yet
    ("pigeon", "delivered", "landed", DELIVERED),
    ("sms", "new_status", "new_status", None),
    ("NHSAPP", "DELIVERED", "READ", READ),
]


@pytest.mark.parametrize(("channel", "status", "supplier", "fate"), CHANNELS)
def test_what_a_channel_tells(
    channel: str, status: str, supplier: str, fate: tuple[str, str | None, str | None] | None
) -> None:
    assert read(channel_status("m-1", channel, status, supplier)) == ([fate] if fate else [])


@pytest.mark.parametrize("supplier", ["missing", None, ""])
def test_a_channel_without_a_suppliers_word(supplier: str | None) -> None:
    news = channel_status("m-1", "nhsapp", "failed", "read")
    if supplier == "missing":
        del news["attributes"]["supplierStatus"]
    else:
        news["attributes"]["supplierStatus"] = supplier
    assert read(news) == [failed("permanent")]


# Messages

MESSAGES: list[tuple[str, tuple[str, str | None, str | None] | None]] = [
    ("created", None),
    ("pending_enrichment", None),
    ("enriched", None),
    ("sending", None),
    ("delivered", DELIVERED),
    ("failed", failed("permanent")),
    ("read", None),
    ("something_new", None),
]


@pytest.mark.parametrize(("status", "fate"), MESSAGES)
def test_what_a_message_tells(status: str, fate: tuple[str, str | None, str | None] | None) -> None:
    assert read(message_status("m-1", status)) == ([fate] if fate else [])


def test_an_app_message_that_is_delivered_is_not_read() -> None:
    news = message_status("m-1", "delivered", channels=[{"type": "nhsapp", "channelStatus": "delivered"}])
    assert read(news) == [DELIVERED]


@pytest.mark.parametrize(
    ("supplier", "kind"),
    [
        ("rejected", "rejected"),
        ("unnotified", "rejected"),
        ("technical_failure", "technical"),
        ("temporary_failure", "temporary"),
        ("permanent_failure", "permanent"),
        ("cancelled", "permanent"),
        (None, "permanent"),
    ],
)
def test_a_failed_message_fails_as_its_channel_says(supplier: str | None, kind: str) -> None:
    channels = [{"type": "nhsapp", "channelStatus": "failed", "supplierStatus": supplier}]
    assert read(message_status("m-1", "failed", channels=channels)) == [failed(kind)]


# Codes


@pytest.mark.parametrize(
    ("code", "mark"),
    [
        ("CM_PDSV_0001", None),
        ("CM_PDSV_0002", None),
        ("CM_PDSV_0004", None),
        ("CM_PDSV_0006", None),
        ("CM_PDSV_0008", "invalidated"),
        ("CM_PDSV_0110", "exit_coded"),
        ("CM_PDSV_0111", "deceased"),
        ("CM_PDSV_0112", "deceased"),
        ("CM_SUPE_0001", None),
        ("CM_SUPE_0007", None),
        ("A_CODE_TO_COME", None),
    ],
)
def test_failure_codes_are_kept(code: str, mark: str | None) -> None:
    of_message = message_status("m-1", "failed", messageFailureReasonCode=code)
    of_channel = channel_status("m-1", "sms", "failed", "permanent_failure", channelFailureReasonCode=code)
    assert read(of_message, of_channel) == [failed("permanent", code)] * 2
    assert mark_of(code) == mark


def test_a_messages_code_may_stand_with_its_channel() -> None:
    channels = [{"type": "sms", "channelStatus": "failed", "channelFailureReasonCode": "CM_SUPE_0007"}]
    assert read(message_status("m-1", "failed", channels=channels)) == [failed("permanent", "CM_SUPE_0007")]


@pytest.mark.parametrize(
    ("code", "kept"), [("", None), (None, None), (7, "7"), ("a\x00b\nc", "abc"), ("x" * 500, "x" * 100), ("\x00", None)]
)
def test_an_odd_code_is_kept_as_far_as_it_can_be_shown(code: Any, kept: str | None) -> None:
    assert read(message_status("m-1", "failed", messageFailureReasonCode=code)) == [failed("permanent", kept)]


# The rest of a receipt


def test_a_receipt_says_of_whom_when_and_by_which_key() -> None:
    news = channel_status("flu:17:primary", "nhsapp", "delivered", "read", key="2515ae6b")
    assert read_callback(body(news)).receipts == [Receipt("2515ae6b", "flu:17:primary", "read", AT)]


@pytest.mark.parametrize(
    ("given_time", "moment"),
    [
        ("2026-11-22T14:27:51.413Z", AT),
        ("2026-11-22T15:27:51.413+01:00", AT),
        ("2026-11-22T14:27:51.413", AT),
        ("2026-11-22T14:27:51Z", AT.replace(microsecond=0)),
    ],
)
def test_times_are_utc(given_time: str, moment: datetime) -> None:
    (told,) = read_callback(body(message_status("m-1", "delivered", timestamp=given_time))).receipts
    assert (told.occurred_at, told.occurred_at.tzinfo) == (moment, UTC)


def test_the_same_callback_gives_the_same_receipts() -> None:
    sent = body(message_status("m-1", "delivered"), channel_status("m-2", "sms", "failed", "x", key="key-2"))
    assert read_callback(sent) == read_callback(sent)


def test_items_that_share_a_key_get_keys_of_their_own_whatever_their_order() -> None:
    news = [
        message_status("m-1", "delivered", key="one"),
        message_status("m-2", "delivered", key="one"),
        message_status("m-2", "failed", key="one"),
        message_status("m-3", "delivered", key="two"),
    ]
    keys = {(told.reference, told.kind): told.provider_key for told in read_callback(body(*news)).receipts}
    again = {(told.reference, told.kind): told.provider_key for told in read_callback(body(*reversed(news))).receipts}
    assert keys == again
    assert len(set(keys.values())) == 4
    assert keys[("m-3", "delivered")] == "two"


def test_what_we_do_not_know_is_left_aside() -> None:
    reply = {"type": "RecipientResponse", "attributes": [1], "meta": None}
    known = message_status("m-1", "delivered", newKey={"a": 1})
    known["relationships"] = [1]
    assert read(reply, known) == [DELIVERED]


@pytest.mark.parametrize("reference", ["missing", None])
def test_a_message_without_a_reference_is_not_ours(reference: str | None) -> None:
    news = message_status("m-1", "failed", messageReference=None)
    if reference == "missing":
        del news["attributes"]["messageReference"]
    assert read(news, message_status("m-2", "delivered", key="key-2")) == [DELIVERED]


# What isn't a callback


def without(news: dict[str, Any], *path: str) -> dict[str, Any]:
    *way, last = path
    place = news
    for name in way:
        place = place[name]
    del place[last]
    return news


NO_CALLBACKS: list[tuple[bytes, str]] = [
    (b"", "body"),
    (b"{", "body"),
    (b"\xff\xfe", "body"),
    (b"null", "data"),
    (b"[]", "data"),
    (b"{}", "data"),
    (b'{"data": {}}', "data"),
    (b"[" * 100_000, "body"),
]


@pytest.mark.parametrize(("sent", "place"), NO_CALLBACKS)
def test_what_is_no_callback_is_named_by_its_place(sent: bytes, place: str) -> None:
    with pytest.raises(NotACallback, match=place):
        read_callback(sent)


def test_a_fault_quotes_nothing() -> None:
    with pytest.raises(NotACallback) as fault:
        read_callback(b'{"data": "9990000018 Ann Grey"')
    assert "Ann" not in str(fault.value)
    assert fault.value.__cause__ is None


ODD: list[Any] = [
    1,
    None,
    {},
    {"type": ["MessageStatus"]},
    without(message_status("m-1", "delivered"), "meta"),
    without(message_status("m-1", "delivered"), "meta", "idempotencyKey"),
    without(message_status("m-1", "delivered"), "attributes", "messageStatus"),
    without(channel_status("m-1", "sms", "delivered", "x"), "attributes", "timestamp"),
    message_status("", "delivered"),
    message_status("a\x00b", "delivered"),
    message_status("a\ud800b", "delivered"),
    message_status("x" * 301, "delivered"),
    message_status("m-1", "delivered", key=""),
    message_status("m-1", "delivered", timestamp="yesterday"),
    message_status("m-1", "delivered", timestamp=5),
    message_status("m-1", "delivered", timestamp="0001-01-01T00:00:00+14:00"),
    message_status("m-1", "delivered", timestamp="9990000018 Ann Grey"),
]


@pytest.mark.parametrize("odd", ODD)
def test_an_item_that_cannot_be_read_keeps_no_other_from_being_stored(odd: Any) -> None:
    told = read_callback(body(odd, message_status("m-2", "delivered", key="key-2")))
    assert [(receipt.reference, receipt.kind) for receipt in told.receipts] == [("m-2", "delivered")]
    (kept,) = told.unread
    assert json.loads(kept) == odd
    assert kept.isascii()  # a store can take it
    assert read_again(kept) is None


def test_what_a_later_version_can_read_is_read_then(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = open_ledger(tmp_path)
    news = [message_status(f"m-{n}", "delivered", key=f"k{n}") for n in range(5)]
    with monkeypatch.context() as earlier:
        earlier.setattr(nhs_notify_receipts, "_ITEM", TypeAdapter(int))
        told = read_callback(body(*news))
        assert (told.receipts, len(told.unread)) == ([], 5)
        unread.keep(ledger, [("nhs_notify", item) for item in [*told.unread, *told.unread, "{}"]], AT)
        assert receipts.collect(ledger, [UnreadNews(ledger)], AT) == 0
    monkeypatch.setattr(unread.kept, "__kwdefaults__", {"after": "", "limit": 2})
    assert [receipts.collect(ledger, [UnreadNews(ledger)], AT) for _ in range(2)] == [5, 0]
    with ledger.read() as connection:
        assert [each.item for each in unread.kept(connection, "nhs_notify")] == ["{}"]
        assert unread.count(connection) == 1
    ledger.close()


def try_to_read(sent: bytes) -> None:
    try:
        told = read_callback(sent)
    except NotACallback:
        return
    assert all(item.isascii() for item in told.unread)
    for receipt in told.receipts:
        assert receipt.occurred_at.tzinfo is UTC
        assert receipt.provider_key
        assert (receipt.kind == "failed") == (receipt.failure_kind is not None)
        f"{receipt.reference}{receipt.provider_key}{receipt.failure_code}".encode()  # a store can take it


@given(st.binary())
def test_any_bytes_are_a_callback_or_are_not(sent: bytes) -> None:
    try_to_read(sent)


_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=3,
)
_NEWS = [message_status("m-1", "failed"), channel_status("m-1", "nhsapp", "delivered", "read")]
_PLACES = [("type",), ("meta",), ("attributes",), ("meta", "idempotencyKey")] + [
    ("attributes", name) for news in _NEWS for name in [*news["attributes"], "messageFailureReasonCode"]
]


@given(st.sampled_from(_NEWS), st.lists(st.tuples(st.sampled_from(_PLACES), _values), max_size=3))
def test_any_value_in_any_place_is_a_callback_or_is_not(news: dict[str, Any], changes: Any) -> None:
    changed = json.loads(json.dumps(news))
    for (*way, last), value in changes:
        place = changed
        for name in way:
            place = place[name] if isinstance(place, dict) else {}
        if isinstance(place, dict):
            place[last] = value
    try_to_read(json.dumps({"data": [changed]}).encode())


@given(
    st.lists(
        st.builds(
            channel_status,
            st.sampled_from(["m-1", "m-2"]),
            st.sampled_from(["nhsapp", "sms", "email"]),
            st.sampled_from(["sending", "delivered", "failed"]),
            st.sampled_from(["read", "delivered", "notified", "rejected", "technical_failure", "unknown"]),
            key=st.sampled_from(["k1", "k2", "k3"]),
        ),
        max_size=6,
    )
)
def test_keys_within_a_callback_are_as_many_as_its_news(news: list[dict[str, Any]]) -> None:
    told = read_callback(body(*news)).receipts
    assert len({receipt.provider_key for receipt in told}) == len(set(told))


# Who sent it


def signature(sent: bytes, application: str = APPLICATION, key: str = KEY) -> str:
    return hmac.new(f"{application}.{key}".encode(), sent, hashlib.sha256).hexdigest()


SENT = b'{"data":  [] }'

VERDICTS: list[tuple[str | None, str | None, Verdict]] = [
    (KEY, signature(SENT), Verdict.OK),
    (KEY, signature(SENT).upper(), Verdict.OK),
    (None, signature(SENT), Verdict.UNAUTHORISED),
    ("", signature(SENT), Verdict.UNAUTHORISED),
    (KEY[:-1], signature(SENT), Verdict.UNAUTHORISED),
    ("ключ", signature(SENT), Verdict.UNAUTHORISED),
    ("\udcff", signature(SENT), Verdict.UNAUTHORISED),
    (None, None, Verdict.UNAUTHORISED),
    (KEY, None, Verdict.FORBIDDEN),
    (KEY, "", Verdict.FORBIDDEN),
    (KEY, signature(SENT)[:-1], Verdict.FORBIDDEN),
    (KEY, "ю" * 64, Verdict.FORBIDDEN),
    (KEY, "\udcff", Verdict.FORBIDDEN),
    (KEY, signature(b'{"data":[]}'), Verdict.FORBIDDEN),  # the same JSON, but not the same bytes
    (KEY, signature(SENT, application="app-2"), Verdict.FORBIDDEN),
    (KEY, signature(SENT, key="another"), Verdict.FORBIDDEN),
]


@pytest.mark.parametrize(("key", "given_signature", "verdict"), VERDICTS)
def test_who_may_call(key: str | None, given_signature: str | None, verdict: Verdict) -> None:
    told = verify(SENT, api_key_header=key, signature_header=given_signature, application_id=APPLICATION, api_key=KEY)
    assert told is verdict


def test_the_signature_is_over_the_raw_bytes() -> None:
    # Worked out by another program: printf '%s' '{"data":[]}' | openssl dgst -sha256 -hmac 'app-1.secret'
    given_signature = "60148b7112dc3aab95e8b5233f1a84907ff7581c7e6a19ba88bdd8fff888ee07"
    verdict = verify(
        b'{"data":[]}',
        api_key_header="secret",
        signature_header=given_signature,
        application_id="app-1",
        api_key="secret",
    )
    assert verdict is Verdict.OK


@pytest.mark.parametrize(("application", "key"), [("", KEY), (APPLICATION, ""), ("", "")])
def test_nobody_is_trusted_by_an_empty_key(application: str, key: str) -> None:
    with pytest.raises(ValueError, match="can't be checked"):
        verify(
            SENT,
            api_key_header=key,
            signature_header=signature(SENT, application, key),
            application_id=application,
            api_key=key,
        )


@given(st.binary(), st.binary())
def test_a_signature_is_of_its_own_body_alone(one: bytes, other: bytes) -> None:
    headers = signed(one, APPLICATION, KEY)
    verdict = verify(
        other,
        api_key_header=headers["x-api-key"],
        signature_header=headers["x-hmac-sha256-signature"],
        application_id=APPLICATION,
        api_key=KEY,
    )
    assert verdict is (Verdict.OK if one == other else Verdict.FORBIDDEN)


# From a callback to the ledger


class _Gateway(BaseHTTPRequestHandler):
    """What our gateway does with a callback, in few words."""

    told: list[list[Receipt]]

    def do_POST(self) -> None:
        sent = self.rfile.read(int(self.headers["Content-Length"]))
        verdict = verify(
            sent,
            api_key_header=self.headers["x-api-key"],
            signature_header=self.headers["x-hmac-sha256-signature"],
            application_id=APPLICATION,
            api_key=KEY,
        )
        if verdict is Verdict.OK:
            self.told.append(read_callback(sent).receipts)
        self.send_response(202 if verdict is Verdict.OK else 403)
        self.end_headers()

    @override
    def log_message(self, format: str, *args: Any) -> None:
        """Tests are quiet."""


@pytest.mark.parametrize("seed", range(3))
def test_callbacks_in_any_order_and_repeated_make_the_same_of_an_attempt(tmp_path: Path, seed: int) -> None:
    ledger = open_ledger(tmp_path)
    queue(ledger, [Recipient(line, "nhs_app", provider="nhs_notify") for line in range(2, 7)])
    begin(ledger, *range(2, 7))
    references = [row[0] for row in attempt_rows(ledger, "reference", step="primary")]
    suppliers = ["read", "delivered", "notified", "rejected", "notification_attempted"]
    news = [
        channel_status(reference, "nhsapp", "sending", supplier, key=f"{reference}/{supplier}")
        for reference, last in zip(references, suppliers, strict=True)
        for supplier in ("notified", last)
    ] + [message_status(references[1], "delivered", key="whole")]
    told: list[list[Receipt]] = []
    with HTTPServer(("127.0.0.1", 0), type("Handler", (_Gateway,), {"told": told})) as gateway:
        Thread(target=gateway.serve_forever, args=[0.01], daemon=True).start()
        url = f"http://127.0.0.1:{gateway.server_port}/"
        answered = push(url, news, application_id=APPLICATION, api_key=KEY, seed=seed, repeated=0.8)
        assert push(url, news, application_id=APPLICATION, api_key="stolen", seed=seed)[0] == 403
        gateway.shutdown()
    assert set(answered) == {202}
    assert len(told) == len(answered) > 4
    random.Random(seed).shuffle(told)
    for batch in told:
        receipts.store(ledger, "nhs_notify", batch, NOW)
        receipts.fold(ledger, NOW)
    states = attempt_rows(ledger, "read_at", "delivered_at", "failed_at", "failure_kind", step="primary")
    ledger.close()
    assert states == [
        (AT, None, None, None),
        (None, AT, None, None),
        (None, None, None, None),
        (None, None, AT, "rejected"),
        (None, None, None, None),
    ]
