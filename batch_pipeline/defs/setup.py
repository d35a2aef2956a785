"""The resources bound to every asset and sensor."""

import dagster as dg

from batch_pipeline.defs.io import ParquetInHome
from batch_pipeline.defs.resources import ClockResource, HouseResource


@dg.definitions
def resources() -> dg.Definitions:
    """The house, the clock, and the Parquet store between assets."""
    house = HouseResource()
    return dg.Definitions(
        resources={"house": house, "clock": ClockResource(), "io_manager": ParquetInHome(house=house)},
        # For what is materialised from the UI's graph as well; a process a step costs ten times the work itself.
        executor=dg.in_process_executor,
    )
