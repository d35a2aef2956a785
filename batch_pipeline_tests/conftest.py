"""What every test starts from: a silent Dagster and one hypothesis profile."""

import os
import tempfile
from pathlib import Path

from hypothesis import settings

pytest_plugins = ["batch_pipeline_tests.ledgers"]

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
