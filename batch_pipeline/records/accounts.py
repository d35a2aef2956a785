"""From a workspace's settings and the environment to the writer of its record."""

import hashlib
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

from batch_pipeline.ledger import paces
from batch_pipeline.ledger.engine import Ledger
from batch_pipeline.records.fhir_server import FhirAccount, FhirServer
from batch_pipeline.records.folder import RecordFolder
from batch_pipeline.records.pace import Pace
from batch_pipeline.records.writer import Writer
from batch_pipeline.settings import RecordChoice, Workspace, secret

# The names of the environment's variables, behind the prefix that a workspace gives.
RECORD_TOKEN = "RECORD_TOKEN"  # noqa: S105 - the variable's name
RECORD_API_KEY = "RECORD_API_KEY"
RECORD_PRIVATE_KEY = "RECORD_PRIVATE_KEY"


def writer_of(workspace: Workspace, folder: Path, ledger: Callable[[], Ledger]) -> Writer:
    """The workspace's writer: files in ``folder`` unless it says otherwise. ``Refused`` names what is missing.

    ``ledger``: opened for a writer that keeps to a rate alone; to look a workspace over makes none.
    """
    chosen = workspace.record
    if chosen is None or chosen.base_url is None:
        return RecordFolder(folder if chosen is None or chosen.folder is None else chosen.folder)
    return FhirServer(
        _account(chosen, chosen.base_url),
        Pace(ledger(), paces.account_of("record", _name(chosen.base_url)), chosen.per_minute),
        timedelta(seconds=chosen.timeout),
    )


def _account(chosen: RecordChoice, base_url: str) -> FhirAccount:
    if chosen.key_id is None:
        return FhirAccount(base_url, token=secret(chosen.credentials, RECORD_TOKEN))
    return FhirAccount(
        base_url,
        api_key=secret(chosen.credentials, RECORD_API_KEY),
        key_id=chosen.key_id,
        private_key=secret(chosen.credentials, RECORD_PRIVATE_KEY),
        token_url=chosen.token_url,
    )


def _name(base_url: str) -> str:
    """One rate for one system, whoever writes to it."""
    return hashlib.blake2b(base_url.rstrip("/").encode(), digest_size=8).hexdigest()
