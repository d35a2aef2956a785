import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from typing_extensions import override

from batch_pipeline.ledger.tables import receipts
from batch_pipeline.providers.govuk_notify import GovukNotify, GovukNotifyAccount
from batch_pipeline.providers.govuk_notify_receipts import NotACallback, is_allowed, read_callback
from batch_pipeline.providers.protocol import OutgoingMessage, Receipt
from batch_pipeline.sending.receipts import store
from batch_pipeline_tests.ledger.given import NOW, nhs_number, open_ledger
from batch_pipeline_tests.providers.govuk_notify_double import API_KEY, SMS_TEMPLATE, GovukNotifyDouble

TOKEN = "a token that we chose"
ID = "740e5834-3a29-46b4-9a6f-16142fde533a"
CALLBACK = {
    "id": ID,
    "reference": "flu:17:primary",
    "to": "07700900123",
    "status": "delivered",
    "created_at": "2026-10-01T09:00:00.000000Z",
    "completed_at": "2026-10-01T09:00:05.250000Z",
    "sent_at": "2026-10-01T09:00:01.000000Z",
    "notification_type": "sms",
    "template_id": SMS_TEMPLATE,
    "template_version": 1,
}
AT = datetime(2026, 10, 1, 9, 0, 5, 250_000, tzinfo=UTC)


def body(**changes: Any) -> bytes:
    return json.dumps(CALLBACK | changes).encode()


def read(**changes: Any) -> Receipt:
    receipt = read_callback(body(**changes))
    assert receipt is not None
    return receipt


# Reading


def test_a_delivery() -> None:
    assert read() == Receipt(
        f"{ID}/delivered/2026-10-01T09:00:05.250000+00:00", "flu:17:primary", "delivered", AT, None, None
    )


@pytest.mark.parametrize("kind", ["permanent", "temporary", "technical"])
def test_a_failure_of_each_kind(kind: str) -> None:
    receipt = read(status=f"{kind}-failure")
    assert (receipt.kind, receipt.failure_kind, receipt.failure_code) == ("failed", kind, f"{kind}-failure")
    assert receipt.occurred_at == AT


@pytest.mark.parametrize("status", ["created", "sending", "sent", "pending", "virus-scan-failed", "DELIVERED", ""])
def test_a_status_on_the_way_or_unknown_tells_nothing(status: str) -> None:
    assert read_callback(body(status=status, completed_at=None)) is None


def test_a_message_without_a_reference_is_not_ours() -> None:
    assert read_callback(body(reference=None)) is None


def test_keys_that_are_not_known_make_no_difference() -> None:
    assert read(new={"deep": [1, None]}, to=None, template_version="x", notification_type=7) == read()


def test_a_repeat_has_the_same_key_and_anything_new_another() -> None:
    assert read().provider_key == read(id=ID.upper(), to="07700900999").provider_key
    others = [
        read(id=ID[:-1] + "b"),
        read(status="temporary-failure"),
        read(completed_at="2026-10-01T09:00:06Z"),
    ]
    assert len({receipt.provider_key for receipt in [read(), *others]}) == 4


@pytest.mark.parametrize(
    ("times", "at"),
    [
        ({"completed_at": "2026-10-01T10:00:05.25+01:00"}, AT),
        ({"completed_at": "2026-10-01T09:00:05.250000"}, AT),
        ({"completed_at": None}, datetime(2026, 10, 1, 9, 0, 1, tzinfo=UTC)),
        ({"completed_at": None, "sent_at": None}, datetime(2026, 10, 1, 9, tzinfo=UTC)),
    ],
)
def test_times_are_of_the_world_and_the_latest_known(times: Mapping[str, Any], at: datetime) -> None:
    receipt = read(status="technical-failure", **times)
    assert (receipt.occurred_at, receipt.occurred_at.utcoffset()) == (at, timedelta(0))


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (b"", "JSON object"),
        (b"07700900123", "JSON object"),
        (b"[]", "JSON object"),
        (b"\xff\xfe\x00", "JSON object"),
        (b"[" * 100_000, "JSON object"),
        (b'{"a":' * 100_000, "JSON object"),
        (b"1" * 10_000, "JSON object"),
        (b"{}", "status"),
        (body(status=None), "status"),
        (body(status=["delivered"]), "status"),
        (body(id=None), "id"),
        (body(id="07700900123"), "id"),
        (body(id=f"{ID}\n"), "id"),
        (body(reference=7), "reference"),
        (body(reference=""), "reference"),
        (body(reference="flu:17\x00"), "reference"),
        (body(reference="\ud800"), "reference"),
        (body(completed_at="07700900123"), "completed_at"),
        (body(completed_at=1_790_000_000), "completed_at"),
        (body(completed_at="9999-12-31T23:59:59-23:00"), "completed_at"),
        (body(completed_at=None, sent_at=None, created_at=None), "completed_at"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_what_is_no_callback_is_told_by_its_field_and_without_its_contents(wrong: bytes, says: str) -> None:
    with pytest.raises(NotACallback, match=says) as raised:
        read_callback(wrong)
    assert "07700900123" not in str(raised.value)
    assert raised.value.__context__ is None or raised.value.__suppress_context__


LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text()
JSON = LEAVES | st.lists(LEAVES, max_size=2) | st.dictionaries(st.text(max_size=3), LEAVES, max_size=2)


@given(st.dictionaries(st.sampled_from(sorted(CALLBACK)), JSON, max_size=3))
@example({"status": "technical-failure", "completed_at": "2026-W40-4"})
def test_whatever_stands_in_the_fields_it_is_a_storable_receipt_or_nothing_or_no_callback(
    changes: dict[str, Any],
) -> None:
    try:
        receipt = read_callback(body(**changes))
    except NotACallback:
        return
    if receipt is not None:
        assert receipt.kind in ("delivered", "failed")
        assert (receipt.kind == "failed") == (receipt.failure_kind is not None)
        assert receipt.occurred_at.utcoffset() == timedelta(0)
        assert "\0" not in (receipt.reference + receipt.provider_key)
        (receipt.reference + receipt.provider_key).encode()


@given(st.binary() | JSON.map(lambda value: json.dumps(value).encode()))
def test_any_bytes_are_nothing_or_no_callback(wrong: bytes) -> None:
    with suppress(NotACallback):
        assert read_callback(wrong) is None


# Who may


@pytest.mark.parametrize(
    ("header", "token", "allowed"),
    [
        (f"Bearer {TOKEN}", TOKEN, True),
        (f"bearer  {TOKEN} ", TOKEN, True),
        (f"Bearer {TOKEN}x", TOKEN, False),
        (f"Bearer {TOKEN[:-1]}", TOKEN, False),
        (f"Basic {TOKEN}", TOKEN, False),
        (TOKEN, TOKEN, False),
        ("Bearer", TOKEN, False),
        ("Bearer ", "", False),
        ("", "", False),
        (None, "", False),
        (None, TOKEN, False),
        ("Bearer \xe9\udcff", TOKEN, False),
    ],
)
def test_only_who_bears_our_token_is_allowed(header: str | None, token: str, allowed: bool) -> None:
    assert is_allowed(header, token) is allowed


# By the wire


@contextmanager
def listening(got: list[Receipt]) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            told = self.rfile.read(int(self.headers["Content-Length"]))
            if allowed := is_allowed(self.headers["Authorization"], TOKEN):
                got.extend(receipt for receipt in [read_callback(told)] if receipt is not None)
            self.send_response(202 if allowed else 403)
            self.end_headers()

        @override
        def log_message(self, format: str, *args: Any) -> None:
            """Says nothing."""

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/callbacks"
    server.shutdown()
    server.server_close()
    thread.join()


def test_repeated_and_shuffled_callbacks_are_stored_once_each(tmp_path: Path) -> None:
    numbers = ["+447700900001", "+447700900002", "+447700900003", "+447700900500"]
    messages = [
        OutgoingMessage(f"flu:{line}:primary", "sms", nhs_number(line), number, "Hello", None)
        for line, number in enumerate(numbers)
    ]
    got: list[Receipt] = []
    with GovukNotifyDouble().running() as double, listening(got) as url:
        account = GovukNotifyAccount(API_KEY, SMS_TEMPLATE, base_url=double.url)
        GovukNotify(account).send("c1", messages, NOW)
        bodies = double.callbacks(seed=1, repeated=0.7, shuffled=True)
        assert double.push(url, "another", bodies[:1]) == [403]
        assert set(double.push(url, TOKEN, bodies)) == {202}
    assert len(got) > len(numbers)
    assert {(one.reference, one.kind, one.failure_kind) for one in got} == {
        ("flu:0:primary", "delivered", None),
        ("flu:1:primary", "failed", "permanent"),
        ("flu:2:primary", "failed", "temporary"),
        ("flu:3:primary", "delivered", None),
    }
    ledger = open_ledger(tmp_path)
    assert sum(store(ledger, "govuk_notify", [receipt], NOW) for receipt in got) == len(numbers)
    with ledger.read() as connection:
        assert len(connection.execute(receipts.select()).all()) == len(numbers)
