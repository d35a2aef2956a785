"""From a workspace's settings and the environment to the writer of its record."""

from datetime import timedelta
from pathlib import Path

import pytest

from batch_pipeline.errors import Refused
from batch_pipeline.ledger.engine import Ledger
from batch_pipeline.records.accounts import writer_of
from batch_pipeline.records.fhir_server import FhirServer
from batch_pipeline.records.folder import RecordFolder
from batch_pipeline.records.pace import LONGEST_WAIT
from batch_pipeline.settings import Workspace
from batch_pipeline_tests.ledgers import on_sqlite_alone
from batch_pipeline_tests.providers.nhs_notify_double import private_key

SERVER = {"base_url": "https://records.example.test/fhir/R4", "timeout": 12}


def workspace(**record: object) -> Workspace:
    standard = {"id": "riverside", "name": "Riverside Surgery", "ods_code": "A99999"}
    more = {"record": record} if record else {}
    return Workspace.model_validate({**standard, "organisation_type": "gp", "nation": "england", **more})


@on_sqlite_alone
def test_files_go_to_the_home_unless_the_workspace_says_where(ledger: Ledger, tmp_path: Path) -> None:
    for chosen, expected in ((workspace(), tmp_path), (workspace(folder="/srv/records"), Path("/srv/records"))):
        writer = writer_of(chosen, tmp_path, lambda: ledger)
        assert isinstance(writer, RecordFolder)
        assert writer._folder == expected


@on_sqlite_alone
def test_a_server_is_shown_the_token_or_the_keys_of_the_environment(
    ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RIVERSIDE_RECORD_TOKEN", "a-token")
    monkeypatch.setenv("BATCH_PIPELINE_RECORD_API_KEY", "a-key")
    monkeypatch.setenv("BATCH_PIPELINE_RECORD_PRIVATE_KEY", private_key())
    shown = writer_of(workspace(**SERVER, credentials="RIVERSIDE"), tmp_path, lambda: ledger)
    fetched = writer_of(workspace(**SERVER, key_id="riverside-1"), tmp_path, lambda: ledger)
    assert isinstance(shown, FhirServer)
    assert isinstance(fetched, FhirServer)
    assert (shown._account.token, fetched._account.token, fetched._account.api_key) == ("a-token", None, "a-key")
    assert fetched._account.token_endpoint == "https://records.example.test/oauth2/token"
    assert shown.lease == timedelta(seconds=120) + LONGEST_WAIT
    assert shown._pace._account == fetched._pace._account


@on_sqlite_alone
@pytest.mark.parametrize(
    ("more", "variable"), [({}, "BATCH_PIPELINE_RECORD_TOKEN"), ({"key_id": "1"}, "BATCH_PIPELINE_RECORD_API_KEY")]
)
def test_a_missing_secret_is_named(
    ledger: Ledger, tmp_path: Path, more: dict[str, object], variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(variable, raising=False)
    with pytest.raises(Refused, match=f"{variable} isn't set"):
        writer_of(workspace(**SERVER, **more), tmp_path, lambda: ledger)
