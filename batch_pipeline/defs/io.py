"""How tables pass between assets: Parquet files, one a batch, under the home's ``data/`` folder."""

import os
from pathlib import Path

import dagster as dg
import pyarrow.parquet as pq
from upath import UPath

from batch_pipeline.defs.resources import HouseResource


class ParquetIOManager(dg.UPathIOManager):
    """Moves a finished Parquet file into its place, and hands the next asset its path.

    An asset writes its table into the house's staging folder first; what stands under ``data/`` is always whole.
    """

    extension = ".parquet"

    def dump_to_path(self, context: dg.OutputContext, obj: Path, path: UPath) -> None:
        """``obj`` is a finished file in staging, on the same disk."""
        with obj.open("rb") as file:
            os.fsync(file.fileno())
        obj.replace(Path(str(path)))
        context.add_output_metadata({"dagster/row_count": pq.read_metadata(Path(str(path))).num_rows})

    def load_from_path(self, context: dg.InputContext, path: UPath) -> Path:  # noqa: ARG002 - the base class's signature
        """The file itself is handed on: DuckDB reads what it needs of it."""
        return Path(str(path))

    def make_directory(self, path: UPath) -> None:
        """For its owner alone."""
        path.mkdir(parents=True, exist_ok=True, mode=0o700)


class ParquetInHome(dg.ConfigurableIOManagerFactory[ParquetIOManager]):
    """The Parquet store of a house."""

    house: HouseResource

    def create_io_manager(self, context: dg.InitResourceContext) -> ParquetIOManager:  # noqa: ARG002 - the base class's
        """The store under the house's ``data/``."""
        return ParquetIOManager(base_path=UPath(self.house.open().home.data))
