"""Processes of their own for tests: forked from a server that has imported everything, so that they start at once.

What they run has to live in one of the modules named here, and not in a test's.
"""

import multiprocessing
import subprocess
import sys
from pathlib import Path

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(
    [
        "alembic.command",
        "batch_pipeline_tests.gateway.serving",
        "batch_pipeline_tests.ledger.given",
        "batch_pipeline_tests.records.worlds",
        "fhir.resources.R4B.communication",
        "batch_pipeline_tests.sending.copies",
        "batch_pipeline_tests.sending.round_processes",
        "batch_pipeline_tests.sending.worlds",
    ]
)

_LOCKS_IT = """
import fcntl, sys
with open(sys.argv[1], "r+b") as file:
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 510, 0x40000002)  # SQLite's shared range
    except OSError:
        sys.exit(7)
"""


def is_locked_against_others(path: Path) -> bool:
    """Whether another process would find that this one has the SQLite file open."""
    tried = subprocess.run([sys.executable, "-S", "-c", _LOCKS_IT, str(path)], check=False)
    assert tried.returncode in (0, 7)
    return tried.returncode == 7
