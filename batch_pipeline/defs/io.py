"""How tables pass between assets: Parquet files, one a batch, under the home's ``data/`` folder."""

import os
from pathlib import Path

import dagster as dg
import pyarrow.parquet as pq

from batch_pipeline.defs.resources import HouseResource


class ParquetIOManager(dg.IOManager):
    """Moves a finished Parquet file into its place, and hands the next asset its path.

    An asset writes its table into the house's staging folder first; what stands under ``data/`` is always whole.
    Dagster's own ``UPathIOManager`` would do, but logs two lines a table: they made a quarter of a plan's events.
    """

    def __init__(self, data: Path) -> None:
        self._data = data

    def handle_output(self, context: dg.OutputContext, obj: Path) -> None:
        """``obj`` is a finished file in staging, on the same disk."""
        path = self._path(context)
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with obj.open("rb") as file:
            os.fsync(file.fileno())
        obj.replace(path)
        context.add_output_metadata(
            {"path": dg.MetadataValue.path(path), "dagster/row_count": pq.read_metadata(path).num_rows}
        )

    def load_input(self, context: dg.InputContext) -> Path:
        """The file itself is handed on: DuckDB reads what it needs of it. Raises ``FileNotFoundError``."""
        path = self._path(context)
        if not path.is_file():
            raise FileNotFoundError(f"{path} isn't there: materialise {context.asset_key.to_user_string()} first")
        return path

    def _path(self, context: dg.OutputContext | dg.InputContext) -> Path:
        return self._data.joinpath(*context.asset_key.path) / f"{context.asset_partition_key}.parquet"


class ParquetInHome(dg.ConfigurableIOManagerFactory[ParquetIOManager]):
    """The Parquet store of a house."""

    house: HouseResource

    def create_io_manager(self, context: dg.InitResourceContext) -> ParquetIOManager:  # noqa: ARG002 - the base class's
        """The store under the house's ``data/``."""
        return ParquetIOManager(self.house.open().home.data)
