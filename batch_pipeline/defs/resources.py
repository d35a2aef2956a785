"""The two things every stage is given: the house it works in, and the time it is."""

from datetime import UTC, datetime
from pathlib import Path

import dagster as dg

from batch_pipeline.home import Home
from batch_pipeline.house import House


class HouseResource(dg.ConfigurableResource):
    """The home folder and what lives in it."""

    home: str = ""
    """Empty: BATCH_PIPELINE_HOME, or ``./.home``."""

    def open(self) -> House:
        """The house, ready to work."""
        return House(Home.resolve(Path(self.home) if self.home else None))


class ClockResource(dg.ConfigurableResource):
    """Business time: when things are said to happen. Leases go by the machine's own clock instead."""

    at: str = ""
    """An ISO time with an offset, for rehearsals and repairs. Empty: now."""

    def now(self) -> datetime:
        """An aware UTC time."""
        return datetime.fromisoformat(self.at).astimezone(UTC) if self.at else datetime.now(UTC)
