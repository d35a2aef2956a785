"""What Dagster loads: everything under ``defs/``."""

from pathlib import Path

import dagster as dg

from batch_pipeline.home import keep_private


@dg.definitions
def defs() -> dg.Definitions:
    """Assets, checks, jobs, sensors and resources of the project."""
    keep_private()
    return dg.load_from_defs_folder(path_within_project=Path(__file__).parent)
