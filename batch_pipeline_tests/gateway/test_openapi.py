"""The gateway keeps to its own description, whatever is sent by anybody and by those who know the secrets."""

import os
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from batch_pipeline_tests.gateway.serving import GOVUK, NHS, Gateway

PROJECT = Path(__file__).parents[2]
# The hook puts the secrets in where schemathesis has left them out on purpose, and which bodies are good is for the
# providers' own readers to say, not for this test's.
AS_A_PROVIDER = (
    "--exclude-checks",
    "ignored_auth,missing_required_header,positive_data_acceptance,negative_data_rejection",
)


@pytest.mark.slow
@pytest.mark.parametrize("genuine", [False, True], ids=["anybody", "a provider"])
def test_schemathesis_finds_nothing(gateway: Gateway, tmp_path: Path, genuine: bool) -> None:
    config = tmp_path / "schemathesis.toml"
    config.write_text('[parameters]\n"path.workspace" = "riverside"\n')
    command = [str(Path(sys.executable).with_name("schemathesis")), "--config-file", str(config), "run"]
    done = subprocess.run(
        [*command, f"{gateway.url}/openapi.json", "--max-examples", "60", *(AS_A_PROVIDER if genuine else ())],
        check=False,
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=os.environ
        | {"PYTHONPATH": str(PROJECT)}
        | ({"SCHEMATHESIS_HOOKS": "batch_pipeline_tests.gateway.signing_hooks"} if genuine else {}),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    statuses = {line["status"] for line in gateway.log() if line.get("workspace") == "riverside"}
    assert statuses >= ({202, 400, 405} if genuine else {401, 405})


def test_the_description_names_every_route_and_status(client: httpx.Client) -> None:
    paths = client.get("/openapi.json").json()["paths"]
    assert set(paths) == {
        NHS.replace("riverside", "{workspace}"),
        GOVUK.replace("riverside", "{workspace}"),
        "/healthz",
        "/readyz",
        "/openapi.json",
    }
    statuses = set(paths["/callbacks/{workspace}/nhs-notify"]["post"]["responses"])
    assert statuses == {"202", *(str(status) for status in (400, 401, 403, 404, 405, 408, 413, 415, 429, 500, 503))}
