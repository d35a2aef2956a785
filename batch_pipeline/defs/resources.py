"""The two things every stage is given: the house it works in, and the time it is."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Self

import dagster as dg
from pydantic import PrivateAttr

from batch_pipeline.home import Home
from batch_pipeline.house import House


class HouseResource(dg.ConfigurableResource):
    """The home folder and what lives in it."""

    home: str = ""
    """Empty: BATCH_PIPELINE_HOME, or ``./.home``."""

    _kept: House | None = PrivateAttr(default=None)

    @contextmanager
    def yield_for_execution(self, context: dg.InitResourceContext) -> Iterator[Self]:  # noqa: ARG002 - the base class's
        """One house for all steps of a run, or for a sensor's tick."""
        with self.open().kept() as self._kept:
            yield self

    def open(self) -> House:
        """The house, ready to work."""
        return self._kept or House(Home.resolve(Path(self.home) if self.home else None))


class ClockResource(dg.ConfigurableResource):
    """Business time: when things are said to happen. Leases go by the machine's own clock instead."""

    at: str = ""
    """An ISO time with an offset, for rehearsals and repairs. Empty: now."""

    def now(self) -> datetime:
        """An aware UTC time."""
        return datetime.fromisoformat(self.at).astimezone(UTC) if self.at else datetime.now(UTC)
