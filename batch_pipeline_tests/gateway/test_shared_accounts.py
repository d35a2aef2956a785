"""Two workspaces with one account at a provider, or with keys from the same variables by oversight."""

import hashlib
import hmac
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from batch_pipeline.errors import Refused
from batch_pipeline.gateway.server import readers_of
from batch_pipeline.home import Home
from batch_pipeline.house import House
from batch_pipeline.sending import receipts
from batch_pipeline.settings import refuse_mixed_accounts
from batch_pipeline_tests.gateway.serving import status_body
from batch_pipeline_tests.ledger.given import NOW, Recipient, attempt_rows, begin, queue

APPLICATION, KEY = "an-application", "a key for tests"


@pytest.fixture
def house(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[House]:
    for prefix in ("BATCH_PIPELINE", "HILLSIDE"):
        monkeypatch.setenv(f"{prefix}_NHS_NOTIFY_APPLICATION_ID", APPLICATION)
        monkeypatch.setenv(f"{prefix}_NHS_NOTIFY_API_KEY", KEY)
    home = Home(tmp_path)
    home.init()
    house = House(home)
    yield house
    house.ledger.close()


def _workspace(home: Home, workspace: str, **groups: dict[str, Any]) -> None:
    standard = {"id": workspace, "name": "A Surgery", "ods_code": "A99999", "organisation_type": "gp"}
    written = json.dumps({**standard, "nation": "england", **groups})
    (home.workspaces / f"{workspace}.yaml").write_text(written)


def test_a_call_by_either_path_is_about_the_right_batch_and_counts_once(house: House) -> None:
    for workspace, batch in (("riverside", "flu"), ("hillside", "covid")):
        _workspace(house.home, workspace, nhs_notify={"key_id": "pcn-1"})
        queue(house.ledger, [Recipient(2, provider="nhs_notify")], batch, workspace=workspace, cohort_sha256=batch)
        begin(house.ledger, 2, batch=batch)
    body = status_body("covid:2:primary")
    signature = hmac.new(f"{APPLICATION}.{KEY}".encode(), body, hashlib.sha256).hexdigest()
    headers = {"x-api-key": KEY, "x-hmac-sha256-signature": signature}
    readers = readers_of(house)
    stored = [
        receipts.store(house.ledger, "nhs_notify", readers[path, "nhs-notify"].read(headers, body).receipts, NOW)
        for path in ("riverside", "hillside", "riverside")
    ]
    assert stored == [1, 0, 0]
    assert receipts.fold(house.ledger, NOW) == receipts.Folded(1, 0)
    assert attempt_rows(house.ledger, "delivered_at", batch="flu") == [(None,)]
    assert attempt_rows(house.ledger, "delivered_at", batch="covid") == [(NOW,)]


MAIL = {"host": "relay.example.test", "from_address": "no-reply@example.test", "username": "sender"}


@pytest.mark.parametrize(
    ("group", "one", "other", "differs"),
    [
        ("nhs_notify", {"key_id": "a"}, {"key_id": "b"}, "key_id"),
        ("nhs_notify", {"key_id": "a"}, {"key_id": "a", "base_url": "https://int.example.test"}, "base_url"),
        ("nhs_notify", {"key_id": "a"}, {"key_id": "b", "credentials": "HILLSIDE"}, None),
        ("nhs_notify", {"key_id": "a"}, {"key_id": "a", "timeout": 5, "sends_ods_code": True}, None),
        ("govuk_notify", {}, {"base_url": "https://other.example.test"}, "base_url"),
        ("govuk_notify", {"sms_template_id": "a"}, {"sms_template_id": "b"}, None),
        ("smtp", MAIL, MAIL | {"host": "other.example.test"}, "host"),
        ("smtp", MAIL, MAIL | {"from_address": "no-reply@other.example.test"}, None),
        ("smtp", MAIL, {"host": "other.example.test", "from_address": "no-reply@example.test"}, None),
    ],
)
def test_the_same_keys_for_two_accounts_are_refused_with_both_files(
    house: House, group: str, one: dict[str, Any], other: dict[str, Any], differs: str | None
) -> None:
    _workspace(house.home, "riverside", **{group: one})
    _workspace(house.home, "hillside", **{group: other})
    if differs is None:
        refuse_mixed_accounts(house.home)
        return
    with pytest.raises(Refused, match=rf"hillside\.yaml and riverside\.yaml: .*BATCH_PIPELINE_.* {group}\.{differs}:"):
        refuse_mixed_accounts(house.home)


def test_it_is_refused_before_the_gateway_starts_and_before_a_batch_is_taken_in(house: House) -> None:
    _workspace(house.home, "riverside", nhs_notify={"key_id": "a"})
    _workspace(house.home, "hillside", nhs_notify={"key_id": "b"})
    (house.home.workspaces / "faulty.yaml").write_text("id: [")
    with pytest.raises(Refused, match=r"hillside\.yaml and riverside\.yaml"):
        house.check_providers(house.workspace("riverside"))
    (house.home.workspaces / "faulty.yaml").unlink()
    with pytest.raises(Refused, match=r"hillside\.yaml and riverside\.yaml"):
        readers_of(house)
