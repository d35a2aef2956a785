"""Processes of their own for tests: forked from a server that has imported everything, so that they start at once.

What they run has to live in one of the modules named here, and not in a test's.
"""

import multiprocessing

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(
    ["alembic.command", "batch_pipeline_tests.ledger.given", "batch_pipeline_tests.sending.worlds"]
)
