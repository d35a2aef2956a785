from pathlib import Path

from benchmarks import cohorts, rowwise


def test_the_baseline_puts_every_line_it_reads_somewhere(tmp_path: Path) -> None:
    path = tmp_path / "cohort.csv"
    with path.open("wb") as out:
        cohorts.write(out, 2_000)
    counts = rowwise.plan(path, 1_000)
    assert counts.pop("fragments") >= counts["sms"] > 400
    assert sum(counts.values()) == 1_000
    assert 250 <= counts["email"] <= 320
    assert 20 <= counts["rejected"] <= 60
    assert rowwise.run(path, 100) > 0
