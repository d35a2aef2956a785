"""Every test here has a surgery of its own."""

from pathlib import Path

import pytest

from batch_pipeline_tests.e2e.surgery import Surgery


@pytest.fixture
def surgery(tmp_path: Path) -> Surgery:
    return Surgery(tmp_path)


@pytest.fixture
def surgery_on_disk(tmp_path: Path) -> Surgery:
    """A surgery whose Dagster keeps its runs on disk, as a real one does."""
    return Surgery(tmp_path, on_disk=True)
