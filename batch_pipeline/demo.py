"""The demonstration: three sample cohorts go all the way with the simulator, at made-up times in October 2026."""

import shutil
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

from rich.console import Console

from batch_pipeline import demo_patients, view
from batch_pipeline.demo_patients import Patients, Visit
from batch_pipeline.errors import Refused
from batch_pipeline.house import House
from batch_pipeline.operations import answering, booking, dispatching, review, saving, submission
from batch_pipeline.operations.reporting import reports_of
from batch_pipeline.operations.status import status
from batch_pipeline.runner import Runner

SAMPLES = Path(__file__).parent.parent / "examples"
_LONDON = ZoneInfo("Europe/London")
_BATCHES: Sequence[tuple[str, datetime, Callable[[datetime], Sequence[Visit]] | None]] = (
    ("flu-2026-10", datetime(2026, 10, 1, 9, tzinfo=_LONDON), None),
    ("bp-2026-10", datetime(2026, 10, 7, 9, tzinfo=_LONDON), demo_patients.blood_pressure),
    ("asthma-2026-10", datetime(2026, 10, 8, 9, tzinfo=_LONDON), demo_patients.booking),
)
"""Each with what its patients do, where it has links. A week after the first, so that it is known at which numbers its
texts failed."""


_SWEEP: Sequence[tuple[str, Callable[[House, datetime], Sequence[str]]]] = (
    ("receipts", dispatching.with_news),
    ("fallback", dispatching.with_fallbacks_due),
    ("reminders", dispatching.with_reminders_due),
)
"""What the sensors do in between: jobs, and for which batches."""


def run_demo(house: House) -> None:
    """Shows every step. Run again in the same home, it plans the same and sends nothing again."""
    console = Console(soft_wrap=True)
    _furnish(house)
    runner = Runner(house.home)
    for batch, at, visits in _BATCHES:
        console.rule(f"{batch}, {at:%A %d %B %Y %H:%M}")
        _one(console, house, runner, batch, at, visits(at) if visits is not None else ())
    console.rule("what to look at now")
    for batch, _, _ in _BATCHES:
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
    house.home.slots.mkdir(exist_ok=True, mode=0o700)
    shutil.copyfile(SAMPLES / "asthma-clinic.csv", house.home.slots / "asthma-clinic.csv")


def _blank() -> str:
    return (Path(__file__).parent / "new_home" / "riverside.yaml").read_text("utf-8")


def _one(console: Console, house: House, runner: Runner, batch: str, at: datetime, visits: Sequence[Visit]) -> None:
    def say(command: str) -> None:
        console.print(f"\n$ batch-pipeline {command}", style="bold cyan", soft_wrap=True)

    say(f"submit examples/{batch}.yaml {_when(at)}")
    name = submission.into_inbox(house, SAMPLES / f"{batch}.yaml")
    with view.watched(f"planning {batch}"):
        runner.run("plan", batch, at, {"cohort": {"config": {"spec": name}}})
    plan, figures = review.shown(house, batch, at)
    console.print(view.plan(batch, plan, figures, house.home.reports / batch))

    say(f"approve {batch} --by 'Dr Example' --plan {plan[:12]} {_when(at)}")
    review.approve(house, batch, "Dr Example", plan, at)
    say(f"dispatch {batch} {_when(at)}")
    with view.watched(f"sending {batch}"):
        runner.run("dispatch", batch, at)
    console.print(view.one_line(status(house, batch)))

    def sweep(moment: datetime) -> None:
        say(f"sweep {_when(moment)}")
        for job, with_something_due in _SWEEP:
            for due in with_something_due(house, moment):
                runner.run(job, due, moment)
        console.print(view.one_line(status(house, batch)))

    window = timedelta(hours=figures["fallback_after_hours"])
    sweeps = (at + timedelta(minutes=30), at + window, at + window + timedelta(hours=12), at + timedelta(days=5))
    patients = Patients(house, batch) if visits else None
    here = [] if patients is None or patients.have_been_here else visits
    for moment, visit in sorted([*((each, None) for each in sweeps), *((each.at, each) for each in here)], key=_moment):
        if visit is None:
            sweep(moment)
        elif patients is not None:
            console.print(f"{moment:%d %B %H:%M}: {patients.come(visit)}")

    end = at + timedelta(days=10)
    sweep(end)
    if visits:
        _show_replies(console, house, runner, batch, end, say)
    say(f"save {batch} {_when(end)}")
    with view.watched(f"saving {batch}"):
        runner.run("records", batch, end)
    for sentence in saving.told(house, batch):
        console.print(sentence, soft_wrap=True)
    say(f"report {batch}")
    runner.run("report", batch, end)
    say(f"status {batch}")
    console.print(view.status(status(house, batch)))


def _moment(event: tuple[datetime, Visit | None]) -> datetime:
    return event[0]


def _when(moment: datetime) -> str:
    return f"--at {moment.isoformat(timespec='minutes')}"


def _show_replies(
    console: Console, house: House, runner: Runner, batch: str, at: datetime, say: Callable[[str], None]
) -> None:
    """What patients answered, or booked."""
    if house.submitted(batch).file.message.booking is None:
        say(f"inbox {batch} {_when(at)}")
        runner.run("inbox", batch, at)
        console.print(view.inbox(answering.inbox(house, batch), house.home.reports / batch))
    else:
        say(f"bookings {batch} {_when(at)}")
        runner.run("bookings", batch, at)
        console.print(view.bookings([booking.answered(house, batch, at)], each_line=False))
