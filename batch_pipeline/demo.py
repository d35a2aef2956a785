"""The demonstration: two sample cohorts go all the way with the simulator, at made-up times in October 2026."""

import shutil
from datetime import datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

from rich.console import Console

from batch_pipeline import view
from batch_pipeline.errors import Refused
from batch_pipeline.house import House
from batch_pipeline.operations import dispatching, review, submission
from batch_pipeline.operations.reporting import reports_of
from batch_pipeline.operations.status import status
from batch_pipeline.runner import Runner

SAMPLES = Path(__file__).parent.parent / "examples"
_LONDON = ZoneInfo("Europe/London")
_BATCHES = (
    ("flu-2026-10", datetime(2026, 10, 1, 9, tzinfo=_LONDON)),
    ("bp-2026-10", datetime(2026, 10, 7, 9, tzinfo=_LONDON)),
)
"""The second a week later, so that it knows which numbers the first one's texts failed at."""


def run_demo(house: House) -> None:
    """Shows every step. Run again in the same home, it plans the same and sends nothing again."""
    console = Console(soft_wrap=True)
    _furnish(house)
    runner = Runner(house.home)
    for batch, at in _BATCHES:
        console.rule(f"{batch}, {at:%A %d %B %Y %H:%M}")
        _one(console, house, runner, batch, at)
    console.rule("what to look at now")
    for batch, _ in _BATCHES:
        for path in reports_of(house, batch):
            console.print(f"  {path}", soft_wrap=True)
    console.print(f"The same in Dagster's UI: make ui. Everything of this demo is in {house.home.root}", soft_wrap=True)
    console.print("Every message of this demo went to the simulator: nobody was sent anything.", style="bold")


def _furnish(house: House) -> None:
    if not SAMPLES.is_dir():
        raise Refused(f"the samples aren't at {SAMPLES}: run the demo from a checkout of the project")
    fresh = not house.home.root.exists()
    house.home.init()
    workspace = house.home.workspaces / "riverside.yaml"
    sample = (SAMPLES / workspace.name).read_text("utf-8")
    if not fresh and workspace.exists() and workspace.read_text("utf-8") not in (sample, _blank()):
        raise Refused(f"{workspace} is your own: run the demo in another home, with --home")
    for path in SAMPLES.glob("riverside*"):
        shutil.copyfile(path, house.home.workspaces / path.name)


def _blank() -> str:
    return (Path(__file__).parent / "new_home" / "riverside.yaml").read_text("utf-8")


def _one(console: Console, house: House, runner: Runner, batch: str, at: datetime) -> None:
    def say(command: str) -> None:
        console.print(f"\n$ batch-pipeline {command}", style="bold cyan", soft_wrap=True)

    def when(moment: datetime) -> str:
        return f"--at {moment.isoformat(timespec='minutes')}"

    say(f"submit examples/{batch}.yaml {when(at)}")
    name = submission.into_inbox(house, SAMPLES / f"{batch}.yaml")
    with view.watched(f"planning {batch}"):
        runner.run("plan", batch, at, {"cohort": {"config": {"spec": name}}})
    plan, figures = review.shown(house, batch, at)
    console.print(view.plan(batch, plan, figures, house.home.reports / batch))

    say(f"approve {batch} --by 'Dr Example' --plan {plan[:12]} {when(at)}")
    review.approve(house, batch, "Dr Example", plan, at)
    say(f"dispatch {batch} {when(at)}")
    with view.watched(f"sending {batch}"):
        runner.run("dispatch", batch, at)
    console.print(view.one_line(status(house, batch)))

    window = timedelta(hours=figures["fallback_after_hours"])
    for moment in (at + timedelta(minutes=30), at + window, at + window + timedelta(hours=12), at + timedelta(days=5)):
        say(f"sweep {when(moment)}")
        for due in dispatching.with_news(house, moment):
            runner.run("receipts", due, moment)
        for due in dispatching.with_fallbacks_due(house, moment):
            runner.run("fallback", due, moment)
        console.print(view.one_line(status(house, batch)))

    say(f"report {batch}")
    runner.run("report", batch, at + timedelta(days=5))
    say(f"status {batch}")
    console.print(view.status(status(house, batch)))
