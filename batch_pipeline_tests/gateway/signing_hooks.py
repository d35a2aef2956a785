"""For schemathesis: every call bears the secrets of both providers, with a signature over whatever its body is."""

from typing import Any

import requests
import schemathesis

from batch_pipeline_tests.gateway.serving import API_KEY, BEARER, signature


@schemathesis.hook
def before_call(_context: Any, case: Any, _kwargs: dict[str, Any]) -> None:
    sent = requests.Request(**case.as_transport_kwargs(base_url="http://127.0.0.1")).prepare().body or b""
    assert isinstance(sent, bytes | str)
    body = sent.encode() if isinstance(sent, str) else sent
    case.headers = {
        **(case.headers or {}),
        "x-api-key": API_KEY,
        "x-hmac-sha256-signature": signature(body),
        "authorization": BEARER["authorization"],
    }
