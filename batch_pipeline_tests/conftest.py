"""What every test starts from: a silent Dagster, one hypothesis profile, and little work for the garbage collector."""

import gc
import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import settings

pytest_plugins = ["batch_pipeline_tests.connections", "batch_pipeline_tests.disks", "batch_pipeline_tests.ledgers"]

# Before anything imports Dagster: no telemetry, and nothing of the developer's own ~/.dagster is read or written.
_dagster_home = Path(tempfile.mkdtemp(prefix="batch_pipeline_tests_"))
(_dagster_home / "dagster.yaml").write_text("telemetry:\n  enabled: false\nnux:\n  enabled: false\n", encoding="utf-8")
os.environ["DAGSTER_HOME"] = str(_dagster_home)
os.environ["DAGSTER_DISABLE_TELEMETRY"] = "yes"
os.environ.pop("BATCH_PIPELINE_HOME", None)

# Two busy cores make deadlines lie. On CI the examples are the same each time; elsewhere they vary, and find more.
settings.register_profile("here", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("ci" if os.environ.get("CI") else "here")

# Collecting makes a million objects that live as long as pytest; looking them through again and again takes a
# twentieth of the tests' time.
gc.set_threshold(50_000, 20, 50)


@pytest.hookimpl(trylast=True)
def pytest_collection_finish() -> None:
    """What lives by now stays: the garbage collector needn't look at it any more."""
    gc.collect()
    gc.freeze()


def pytest_unconfigure() -> None:
    """Else Python ends without having looked, and the libraries say that they leak."""
    gc.unfreeze()
