"""Every test here has a surgery of its own, with its ledger on SQLite or on PostgreSQL."""

from pathlib import Path

import pytest

from batch_pipeline_tests.e2e.surgery import Surgery


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """On PostgreSQL run, by default, the tests that ask for it (``both_ledgers``), and in the slow run all."""
    chosen = any(mark.args[0] == "surgery_database" for mark in metafunc.definition.iter_markers("parametrize"))
    if chosen or "surgery_database" not in metafunc.fixturenames:
        return
    by_default = any(metafunc.definition.iter_markers("both_ledgers"))
    marks = [pytest.mark.postgresql, *([] if by_default else [pytest.mark.slow])]
    metafunc.parametrize("surgery_database", ["sqlite", pytest.param("postgresql", marks=marks)], indirect=True)


@pytest.fixture
def surgery(tmp_path: Path, surgery_database: str) -> Surgery:
    return Surgery(tmp_path)


@pytest.fixture
def surgery_on_disk(tmp_path: Path, surgery_database: str) -> Surgery:
    """A surgery whose Dagster keeps its runs on disk, as a real one does."""
    return Surgery(tmp_path, on_disk=True)
