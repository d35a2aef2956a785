"""How long a tick of each sensor takes with many open messages: ``python -m benchmarks.sensors --messages 100000``.

Five batches are sent by the simulator in a temporary home; half their messages go by the App, and nothing has been heard
of any. Prints the median of several ticks.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import median

import dagster as dg

from batch_pipeline.home import Home
from batch_pipeline.house import House
from batch_pipeline.operations import review
from batch_pipeline.rules import nhs_number
from batch_pipeline.runner import Runner
from benchmarks import cohorts

AT = datetime(2026, 10, 1, 8, tzinfo=UTC)
_BATCHES = 5
_TICKS = 5


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--messages", type=int, default=100_000)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="batch-pipeline-sensors-") as folder:
        house = House(Home(Path(folder) / "home"))
        _send(house, asked.messages)
        print(f"{asked.messages:,} messages in {_BATCHES} batches, sent and silent; median of {_TICKS} ticks")
        for name, seconds in _ticks(house).items():
            print(f"  {name:<20} {seconds:6.3f} s")


def _send(house: House, messages: int) -> None:
    house.home.init()
    workspace = house.home.workspaces / "riverside.yaml"
    workspace.write_text(
        "id: riverside\nname: Riverside Surgery\nods_code: A99999\norganisation_type: gp\nnation: england\n"
        "nhs_app_accounts: {path: accounts.csv, as_of: 2026-10-01}\n"
        "simulator: {shares: {nhs_app: {silent: 1}, sms: {silent: 1}, email: {silent: 1}}}\n"
    )
    runner = Runner(house.home)
    for number in range(_BATCHES):
        batch, cohort = f"bench-{number}", house.home.inbox / f"bench-{number}.csv"
        with cohort.open("wb") as file:
            cohorts.write(file, messages // _BATCHES, first_person=number * messages // _BATCHES)
        if number == 0:
            _half_of_them_have_the_app(cohort, house.home.workspaces / "accounts.csv")
        (house.home.inbox / f"{batch}.yaml").write_text(
            f"batch: {batch}\nworkspace: riverside\ncohort: {cohort.name}\nmessage: {{type: simple, body: Your jab is due.}}\n"
            "allow_repeat: true\n"
        )
        runner.run("plan", batch, AT, {"cohort": {"config": {"spec": f"{batch}.yaml"}}})
        plan, _ = review.shown(house, batch, AT)
        review.approve(house, batch, "bench", plan, AT)
        runner.run("dispatch", batch, AT)


def _half_of_them_have_the_app(cohort: Path, accounts: Path) -> None:
    numbers = [line.split(",", 1)[0] for line in cohort.read_text("utf-8").splitlines()[1:]]
    known = [number for number in numbers if nhs_number.is_valid(number)]
    accounts.write_text("nhs_number,notifications_enabled\n" + "".join(f"{number},true\n" for number in known[::2]))


def _ticks(house: House) -> dict[str, float]:
    os.environ["BATCH_PIPELINE_HOME"] = str(house.home.root)
    from batch_pipeline.definitions import defs
    from batch_pipeline.defs.resources import ClockResource, HouseResource

    found: dict[str, float] = {}
    later = ClockResource(at=(AT + timedelta(hours=1)).isoformat())
    for sensor in defs().sensors or ():
        given = {"house": HouseResource(), "clock": later}
        wanted = {name: given[name] for name in sensor.required_resource_keys}
        found[sensor.name] = median(_timed(sensor, wanted) for _ in range(_TICKS))
    return found


def _timed(sensor: dg.SensorDefinition, resources: dict[str, dg.ConfigurableResource]) -> float:
    tick: Callable[..., object] = sensor
    with dg.build_sensor_context(instance=dg.DagsterInstance.get(), resources=resources) as context:
        started = time.perf_counter()
        tick(context)
        return time.perf_counter() - started


if __name__ == "__main__":
    main()
