"""The shell itself: exit codes, what goes to which stream, and where the home is."""

import os
from pathlib import Path

import pytest

from batch_pipeline import cli
from batch_pipeline_tests.e2e.conftest import surgery, surgery_on_disk
from batch_pipeline_tests.e2e.surgery import STATUS_KEYS, Surgery, T, by_sms, numbered

__all__ = ["surgery", "surgery_on_disk"]

COMMANDS = (
    "init",
    "demo",
    "check",
    "submit",
    "review",
    "templates",
    "approve",
    "send-test",
    "dispatch",
    "pause",
    "resume",
    "cancel",
    "revoke",
    "unlock",
    "resolve",
    "sweep",
    "status",
    "report",
)


@pytest.mark.parametrize(
    "typed",
    [
        ["nonsense"],
        ["submit"],
        ["approve", "flu"],
        ["send-test", "flu"],
        ["status", "--nonsense"],
        ["sweep", "--at", "tomorrow"],
        ["sweep", "--at", "2026-13-01"],
        ["dispatch", "flu", "covid"],
    ],
    ids=" ".join,
)
def test_wrong_usage_is_2_and_says_what_is_right_on_stderr(surgery: Surgery, typed: list[str]) -> None:
    ran = surgery.shell(*typed)
    assert ran.code == 2
    assert ran.out == ""
    assert "Usage:" in ran.err
    assert "Traceback" not in ran.err


def test_help_names_every_command(surgery: Surgery) -> None:
    said = surgery.shell("--help")
    assert said.code == 0
    for command in COMMANDS:
        assert command in said.out
        assert surgery.shell(command, "--help").code == 0


@pytest.mark.parametrize(
    "typed",
    [
        ["review", "nope"],
        ["approve", "nope", "--by", "Dr Test"],
        ["send-test", "nope", "--to", "me@example.org"],
        ["dispatch", "nope"],
        ["pause", "nope", "--by", "Dr Test"],
        ["resume", "nope", "--by", "Dr Test"],
        ["cancel", "nope", "--by", "Dr Test"],
        ["revoke", "nope", "--by", "Dr Test"],
        ["revoke", "nope", "--line", "2", "--by", "Dr Test"],
        ["unlock", "nope", "--line", "2", "--by", "Dr Test"],
        ["resolve", "nope"],
        ["resolve", "nope", "--sent", "--by", "Dr Test"],
        ["status", "nope"],
        ["report", "nope"],
        ["status", "../../etc"],
        ["report", "../../etc", "--out", "."],
    ],
    ids=" ".join,
)
def test_a_batch_that_is_not_there_is_1_and_one_sentence(surgery: Surgery, typed: list[str]) -> None:
    sentence = surgery.refused(*typed)
    assert sentence.startswith(f"refused: there is no batch {typed[1]}: submit it first")


@pytest.mark.parametrize(
    "typed", [["status"], ["sweep"], ["dispatch"], ["check", "x.csv"], ["submit", "x.yaml"]], ids=" ".join
)
def test_a_folder_that_is_no_home_is_refused_with_the_mend(tmp_path: Path, surgery: Surgery, typed: list[str]) -> None:
    surgery.home = type(surgery.home)(tmp_path / "nowhere")
    sentence = surgery.refused(*typed)
    assert f"{tmp_path / 'nowhere'} isn't a batch_pipeline home: run `batch-pipeline --home" in sentence
    assert "init" in sentence
    assert not (tmp_path / "nowhere").exists()


def test_times_with_another_offset_mean_the_same_instant(surgery: Surgery) -> None:
    surgery.done("submit", surgery.batch("flu", [by_sms(1)], approval="auto"), at=T)
    surgery.done("dispatch", "flu", "--at", "2026-10-01T11:00+02:00")
    (entry,) = surgery.house.simulator(surgery.house.workspace("larkfield")).journal()
    assert entry.accepted_at == T


def test_status_for_people_and_for_programs(surgery: Surgery) -> None:
    assert surgery.done("status").out == "no batch has been submitted\n"
    surgery.send(surgery.batch("flu", numbered(by_sms, range(1, 4))))
    assert "flu: Sending" in surgery.done("status", "flu").words
    assert "recipients by SMS 3" in surgery.done("status", "flu").words
    assert "flu Sending 3" in surgery.done("status").words
    (only,) = surgery.done("status", "--json").json
    assert only == surgery.status("flu")
    assert list(only) == STATUS_KEYS
    assert isinstance(only["cost"], float)


def test_a_batch_that_cant_be_told_of_hides_no_other(surgery: Surgery) -> None:
    own = surgery.home.workspaces / "larkfield.yaml"
    other = surgery.put(own.with_name("mallow.yaml"), own.read_text().replace("larkfield", "mallow"))
    surgery.done("submit", surgery.batch("flu", [by_sms(1)]))
    surgery.done("submit", surgery.batch("covid", [by_sms(2)], workspace="mallow"))
    other.unlink()
    ran = surgery.shell("status", "--json")
    assert ran.code == 1
    assert [each["batch"] for each in ran.json] == ["flu"]
    assert ran.sentence.startswith("refused: covid: ")
    assert "mallow" in ran.sentence


def test_the_real_program_from_the_first_command_on(surgery_on_disk: Surgery) -> None:
    """In processes of its own, with a home given relative to the folder one is in."""
    surgery = surgery_on_disk
    elsewhere = surgery.root / "somewhere"
    elsewhere.mkdir()
    surgery.home = type(surgery.home)(Path("my home"))
    here = {"cwd": elsewhere, "env": {**os.environ, "COLUMNS": "60"}}

    ran = surgery.program("status", **here)
    assert (ran.code, ran.out) == (1, "")
    assert "isn't a batch_pipeline home" in ran.sentence
    ran = surgery.program("init", **here)
    assert (ran.code, ran.err) == (0, "")
    ran = surgery.program("approve", "flu", **here)
    assert (ran.code, ran.out) == (2, "")

    spec = surgery.batch("flu", numbered(by_sms, range(1, 4)), workspace="riverside")
    ran = surgery.program("submit", os.path.relpath(spec, elsewhere), "--json", at=T, **here)
    assert (ran.code, ran.err) == (0, "")
    assert ran.json["batch"] == "flu"
    assert ran.json["recipients"] == {"email": 0, "nhs_app": 0, "sms": 3}
    ran = surgery.program("status", "flu", "--json", **here)
    assert (ran.code, ran.err) == (0, "")
    assert list(ran.json) == STATUS_KEYS
    assert [path for path in (elsewhere / "my home").rglob("*") if path.stat().st_mode & 0o077] == []


def test_init_again_changes_nothing(surgery: Surgery) -> None:
    surgery.done("init")
    before = {path: path.read_bytes() for path in surgery.home.root.rglob("*.yaml")}
    surgery.send(surgery.batch("flu", [by_sms(1)]))
    known = surgery.status("flu")
    assert "the home is ready" in surgery.done("init").out
    assert {path: path.read_bytes() for path in before} == before
    assert surgery.status("flu") == known


def test_a_sweep_goes_on_with_what_was_heard_for_one_batch_of_another() -> None:
    """A mailbox holds bounces of many batches, and one of them reads it; one that fails on and on is tried once."""
    done: list[tuple[str, str]] = []

    def due() -> list[str]:
        return ["reads"] if not done else ["reads", "heard of"]

    for job, _, batch in cli._one_by_one([("receipts", "", due), ("fallback", "", lambda: ["reads"])]):
        done.append((job, batch))
    assert done == [("receipts", "reads"), ("receipts", "heard of"), ("fallback", "reads")]
