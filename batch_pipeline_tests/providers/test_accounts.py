"""From a workspace's settings and the environment to its providers."""

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from batch_pipeline.errors import Refused
from batch_pipeline.providers.accounts import PROVIDERS, nhs_notify_account
from batch_pipeline.providers.protocol import Provider
from batch_pipeline.settings import Workspace

KEY = b"a key for references, and nothing else"
SECRETS = {
    "NHS_NOTIFY_API_KEY": "not-a-real-key",
    "GOVUK_NOTIFY_API_KEY": "test-0f0f0f0f-0000-4000-8000-000000000001-0f0f0f0f-0000-4000-8000-000000000002",
    "SMTP_PASSWORD": "not a real password",
}
GROUPS = {
    "nhs_notify": {"key_id": "riverside-1", "timeout": 12},
    "govuk_notify": {"sms_template_id": "0f0f0f0f-0000-4000-8000-000000000003", "timeout": 12},
    "smtp": {"host": "relay.example.test", "from_address": "no-reply@riverside.example.test", "timeout": 12},
}


@pytest.fixture(scope="module")
def private_key() -> str:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    kind = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    return key.private_bytes(*kind).decode()


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch, private_key: str) -> None:
    for name, value in {**SECRETS, "NHS_NOTIFY_PRIVATE_KEY": private_key}.items():
        monkeypatch.setenv(f"BATCH_PIPELINE_{name}", value)


def workspace(**groups: dict[str, object]) -> Workspace:
    standard = {"id": "riverside", "name": "Riverside Surgery", "ods_code": "A99999"}
    rest = {"organisation_type": "gp", "nation": "england"}
    return Workspace.model_validate({**standard, **rest, **groups})


def made(name: str, **group: object) -> Provider:
    return PROVIDERS[name](workspace(**{name: {**GROUPS[name], **group}}), KEY)


@pytest.fixture(params=PROVIDERS)
def provider(request: pytest.FixtureRequest) -> Iterator[Provider]:
    provider = made(request.param)
    assert provider.name == request.param
    yield provider
    provider.close()


def test_each_is_made_with_the_time_out_of_its_group_and_shows_no_secret(provider: Provider) -> None:
    assert provider.limits.timeout == timedelta(seconds=12)
    assert "not a real" not in repr(provider)


@pytest.mark.parametrize(
    ("name", "variable"),
    [
        ("nhs_notify", "NHS_NOTIFY_API_KEY"),
        ("nhs_notify", "NHS_NOTIFY_PRIVATE_KEY"),
        ("govuk_notify", "GOVUK_NOTIFY_API_KEY"),
    ],
)
def test_a_missing_secret_is_named(monkeypatch: pytest.MonkeyPatch, name: str, variable: str) -> None:
    monkeypatch.delenv(f"BATCH_PIPELINE_{variable}")
    with pytest.raises(Refused, match=f"BATCH_PIPELINE_{variable} isn't set"):
        made(name)


def test_a_relay_without_a_user_needs_no_password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("BATCH_PIPELINE_SMTP_PASSWORD")
    made("smtp").close()
    with pytest.raises(Refused, match="BATCH_PIPELINE_SMTP_PASSWORD isn't set"):
        made("smtp", username="riverside")


def test_another_workspace_has_variables_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Refused, match="HILLSIDE_GOVUK_NOTIFY_API_KEY isn't set"):
        made("govuk_notify", credentials="HILLSIDE")
    monkeypatch.setenv("HILLSIDE_GOVUK_NOTIFY_API_KEY", SECRETS["GOVUK_NOTIFY_API_KEY"])
    made("govuk_notify", credentials="HILLSIDE").close()


def test_a_secret_may_lie_in_a_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, private_key: str) -> None:
    variable = "BATCH_PIPELINE_NHS_NOTIFY_PRIVATE_KEY"
    monkeypatch.delenv(variable)
    monkeypatch.setenv(f"{variable}_FILE", str(tmp_path / "key.pem"))
    with pytest.raises(Refused, match=rf"{variable}_FILE: .*key\.pem can't be read"):
        made("nhs_notify")
    (tmp_path / "key.pem").write_text(private_key)
    made("nhs_notify").close()


@pytest.mark.parametrize("agreed", [False, True])
def test_the_ods_code_and_contact_details_go_to_nhs_notify_only_where_it_takes_them(agreed: bool) -> None:
    group = {"key_id": "k", "sends_ods_code": agreed, "sends_contact_details": agreed}
    account = nhs_notify_account(workspace(nhs_notify=group))
    assert (account.ods_code, account.contact_details) == (("A99999", True) if agreed else (None, False))


@pytest.mark.parametrize("name", PROVIDERS)
def test_a_provider_that_is_named_needs_its_group(name: str) -> None:
    providers = {"email": name}
    with pytest.raises(ValueError, match=f"email goes by {name}, but there is no group {name}"):
        workspace(providers=dict(providers))
    workspace(providers=dict(providers), **{name: GROUPS[name]})


@pytest.mark.parametrize(("channel", "name"), [("nhs_app", "govuk_notify"), ("nhs_app", "smtp"), ("sms", "smtp")])
def test_a_provider_carries_only_what_it_can(channel: str, name: str) -> None:
    with pytest.raises(ValueError, match="simulator"):
        workspace(providers={channel: name}, **{name: GROUPS[name]})
