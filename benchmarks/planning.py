"""How fast a plan is made, how much memory it takes, and where the time goes.

``python -m benchmarks.planning --rows 1000000``. Each round plans a fresh file in a fresh home and a process of its own,
so that the peak of memory is the round's; the time is that of the Dagster run from its first step to its last, with
Dagster's start-up apart. Then a row-wise pipeline is timed in the same run, for the ratio.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from statistics import median

from benchmarks import cohorts, rowwise

AT = datetime(2026, 10, 1, 8, tzinfo=UTC)
_MEGABYTE = 1_000_000


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--in-home", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.in_home:
        print(json.dumps(_one_round(asked.in_home)))
        return
    with tempfile.TemporaryDirectory(prefix="batch-pipeline-bench-") as folder:
        _compare(Path(folder), asked.rows, asked.rounds)


def _compare(folder: Path, rows: int, rounds: int) -> None:
    cohort = folder / "cohort.csv"
    with cohort.open("wb") as file:
        cohorts.write(file, rows, style="plain", never_issued=True)
    found = [_in_its_own_process(folder / f"home-{number}", cohort) for number in range(rounds)]
    rates = sorted(rows / each["seconds"] for each in found)
    peak = max(each["peak_bytes"] for each in found) / _MEGABYTE
    print(f"plan {rows:,} rows: {median(rates):.0f} rows/s, {peak:.0f} MB")
    some = 10_000
    slow = some / rowwise.run(cohort, some)
    print(
        f"row-wise pandas and phonenumbers, {some:,} rows: {slow:.0f} rows/s; the plan is {median(rates) / slow:.0f} times as fast"
    )
    print(
        f"rounds: {', '.join(f'{rate:.0f}' for rate in rates)} rows/s; file {cohort.stat().st_size / _MEGABYTE:.0f} MB"
    )
    middle = sorted(found, key=lambda each: each["seconds"])[len(found) // 2]
    total = middle["seconds"]
    for step, seconds in middle["steps"].items():
        print(f"  {step:<24} {seconds:6.2f} s  {seconds / total:4.0%}")
    between = total - sum(middle["steps"].values())
    print(f"  {'between the steps':<24} {between:6.2f} s  {between / total:4.0%}")


def _in_its_own_process(home: Path, cohort: Path) -> dict:
    _furnish(home, cohort)
    command = [sys.executable, "-m", "benchmarks.planning", "--in-home", str(home)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def _furnish(home: Path, cohort: Path) -> None:
    from batch_pipeline.home import Home

    made = Home(home)
    made.init()
    (made.inbox / cohort.name).hardlink_to(cohort)
    (made.inbox / "bench.yaml").write_text(
        "batch: bench\nworkspace: riverside\ncohort: cohort.csv\nmessage:\n  type: simple\n"
        '  body: "Dear {{ first_name }}, your flu vaccination is due. Please call us or book online to choose a day."\n'
    )


def _one_round(root: Path) -> dict:
    from batch_pipeline.home import Home
    from batch_pipeline.house import House
    from batch_pipeline.runner import Runner

    house = House(Home(root))
    _ = house.ledger
    runner = Runner(house.home)
    run_id = runner.run("plan", "bench", AT, {"cohort": {"config": {"spec": "bench.yaml"}}})
    steps = sorted(runner.instance.get_run_step_stats(run_id), key=lambda step: step.start_time or 0)
    times = {step.step_key: (step.start_time or 0, step.end_time or 0) for step in steps}
    return {
        "seconds": max(end for _, end in times.values()) - min(start for start, _ in times.values()),
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "steps": {step: end - start for step, (start, end) in times.items()},
    }


if __name__ == "__main__":
    main()
