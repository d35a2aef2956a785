"""What the log says of a request, and what it never says."""

import io
import json
import logging
from datetime import datetime

import httpx
import pytest

from batch_pipeline.errors import Refused
from batch_pipeline.gateway.logs import ServerFormatter, Told, log_answer, make_log
from batch_pipeline_tests.gateway.serving import (
    API_KEY,
    BEARER,
    GOVUK,
    NHS,
    TOKEN,
    Gateway,
    govuk_body,
    signed,
    status_body,
)

PERSONAL = ("9990000018", "07700900123", "+447700900123", "alex.smith@example.test", "Dear Alex", "flu:17:primary")


def test_a_request_makes_one_line_of_what_is_no_secret(gateway: Gateway, client: httpx.Client) -> None:
    body = status_body("flu:1:primary", "flu:2:primary")
    answer = client.post(NHS, content=body, headers=signed(body))
    (line,) = gateway.log(1)
    assert line.pop("milliseconds") > 0
    assert line.pop("at").endswith("Z")
    assert line == {
        "event": "callback",
        "level": "info",
        "workspace": "riverside",
        "provider": "nhs-notify",
        "status": 202,
        "receipts": 2,
        "request_id": answer.headers["x-request-id"],
    }


def test_watchers_are_not_logged_while_all_is_well(gateway: Gateway, client: httpx.Client) -> None:
    assert [client.get(path).status_code for path in ("/healthz", "/readyz")] == [200, 200]
    assert gateway.log() == []


def test_nothing_that_a_caller_sends_is_logged(gateway: Gateway, client: httpx.Client) -> None:
    odd = {"user-agent": PERSONAL[3], "x-correlation-id": PERSONAL[0], "referer": PERSONAL[1], "cookie": PERSONAL[4]}
    query = f"?nhs={PERSONAL[0]}&to={PERSONAL[1]}"
    for path in (
        NHS,
        GOVUK,
        f"/callbacks/{PERSONAL[0]}/nhs-notify",
        f"/callbacks/riverside/{PERSONAL[1]}",
        f"/{PERSONAL[0]}",
    ):
        for headers in ({}, BEARER, signed(status_body(PERSONAL[5])), signed(b"x") | {"x-api-key": PERSONAL[4]}):
            for content in (status_body(PERSONAL[5]), govuk_body(PERSONAL[5], to=PERSONAL[1]), PERSONAL[0].encode()):
                client.post(path + query, content=content, headers=headers | odd)
    client.post(GOVUK, content=govuk_body("a fault of ours", to=PERSONAL[1]), headers=BEARER | odd)
    statuses = {line["status"] for line in gateway.log(61)}
    assert statuses == {202, 400, 401, 403, 404, 500}
    text = gateway.log_path.read_text()
    assert [value for value in (*PERSONAL, API_KEY, TOKEN, "Traceback") if value in text] == []


def test_the_server_s_own_lines_quote_no_exception_but_a_refusal() -> None:
    def line(error: Exception) -> dict[str, str]:
        info = (type(error), error, error.__traceback__)
        record = logging.LogRecord("_granian", logging.ERROR, "", 0, "it failed", (), info)
        return json.loads(ServerFormatter().format(record))

    with pytest.raises(ValueError, match="9990000018") as raised:
        datetime.fromisoformat("9990000018")
    quoting = line(raised.value)
    assert quoting["fault"].startswith("ValueError at test_logs.py:")
    assert "9990000018" not in str(quoting)
    assert line(Refused("name another file"))["fault"] == "name another file"


def test_the_level_goes_by_whose_fault_it_is() -> None:
    stream = io.StringIO()
    log = make_log(stream)
    for status in (202, 404, 503, None):
        log_answer(log, Told(), status, 1.0, "id")
    levels = [json.loads(line)["level"] for line in stream.getvalue().splitlines()]
    assert levels == ["info", "warning", "error", "warning"]
