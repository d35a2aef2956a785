"""The home folder: where it is, what ``init`` makes, and what it leaves alone."""

import stat
from pathlib import Path

import dagster as dg
import pytest

from batch_pipeline.errors import Refused
from batch_pipeline.home import Home
from batch_pipeline.settings import load_workspace
from batch_pipeline.templates import load_template


def made(tmp_path: Path) -> Home:
    home = Home(tmp_path / "home")
    home.init()
    return home


def test_the_home_is_the_one_asked_for_then_the_environments_then_dot_home(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("BATCH_PIPELINE_HOME", raising=False)
    assert Home.resolve(None).root == tmp_path / ".home"
    monkeypatch.setenv("BATCH_PIPELINE_HOME", "there")
    assert Home.resolve(None).root == tmp_path / "there"
    assert Home.resolve(Path("here")).root == tmp_path / "here"


def test_init_makes_everything_readable_by_its_owner_alone(tmp_path: Path) -> None:
    home = made(tmp_path)
    for path in (home.root, *home.root.rglob("*")):
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path
    for folder in (home.workspaces, home.templates, home.questionnaires, home.inbox, home.kept_cohorts, home.reports):
        assert folder.is_dir()


def test_what_init_makes_is_sound(tmp_path: Path) -> None:
    home = made(tmp_path).require()
    assert load_workspace(home, "riverside").nation == "england"
    template, _ = load_template(home, "flu-invitation")
    assert template.message_type == "simple"


def test_init_again_overwrites_nothing_and_brings_no_example_back(tmp_path: Path) -> None:
    home = made(tmp_path)
    (home.workspaces / "riverside.yaml").rename(home.workspaces / "mine.yaml")
    (home.dagster / "dagster.yaml").write_text("telemetry: {enabled: true}\n")
    assert home.init() == []
    assert not (home.workspaces / "riverside.yaml").exists()
    assert "true" in (home.dagster / "dagster.yaml").read_text()


def test_a_home_from_before_there_were_questionnaires_gets_them(tmp_path: Path) -> None:
    home = made(tmp_path)
    shipped = sorted(home.questionnaires.iterdir())
    for path in shipped:
        path.unlink()
    home.questionnaires.rmdir()
    assert sorted(home.init()) == shipped
    shipped[0].unlink()
    assert home.init() == [], "one that was thrown away doesn't come back"


def test_init_mends_a_home_that_lost_a_part(tmp_path: Path) -> None:
    home = made(tmp_path)
    (home.dagster / "dagster.yaml").unlink()
    home.inbox.rmdir()
    assert home.init() == [home.dagster / "dagster.yaml"]
    assert home.inbox.is_dir()


def test_a_folder_that_is_no_home_is_refused_with_the_mend(tmp_path: Path) -> None:
    with pytest.raises(Refused, match=r"isn't a batch_pipeline home: run `batch-pipeline --home .* init`"):
        Home(tmp_path).require()


def test_a_home_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(Refused, match="can't be made"):
        Home(tmp_path / "file" / "home").init()


def test_the_ledger_is_in_the_home_unless_its_url_is_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = Home(tmp_path)
    monkeypatch.delenv("LEDGER_URL", raising=False)
    assert home.ledger_url == f"sqlite:///{tmp_path}/ledger.sqlite"
    monkeypatch.setenv("LEDGER_URL", "postgresql+psycopg://ledger")
    assert home.ledger_url == "postgresql+psycopg://ledger"


def test_dagster_reads_our_settings(tmp_path: Path) -> None:
    home = made(tmp_path)
    with dg.DagsterInstance.from_config(str(home.dagster)) as instance:
        runs = instance.get_concurrency_config().run_queue_config
        assert runs is not None
        limits = {limit["value"]: limit["limit"] for limit in runs.tag_concurrency_limits}
        assert sum(limits.values()) < runs.max_concurrent_runs, "a slot stays free for receipts, and what can't wait"
        assert set(limits) == {"plan", "dispatch", "fallback", "reminders", "records"}, "whatever may take an hour"
        assert {limit["key"] for limit in runs.tag_concurrency_limits} == {"batch_pipeline/stage"}
        assert not instance.telemetry_enabled
        assert not instance.nux_enabled
        assert instance.get_settings("run_retries")["retry_on_asset_or_op_failure"] is False
        assert instance.get_settings("sensors")["use_threads"] is True
