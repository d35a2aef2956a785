"""The project's own files: what a machine with only Python, make and git starts from."""

import re
import subprocess
import tomllib
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[1]
LOCK = (PROJECT / "requirements.lock").read_text(encoding="utf-8")
SETTINGS = tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))


def test_the_lock_names_no_host_and_no_path() -> None:
    assert (
        re.findall(r"https?:|file:|--(?:extra-)?index-url|--find-links|^-e|(?<![\w-])/\w+/", LOCK, re.MULTILINE) == []
    )


def test_every_locked_package_has_a_version_and_hashes() -> None:
    requirements = [
        line for line in LOCK.replace("\\\n", " ").splitlines() if line and not line.lstrip().startswith("#")
    ]
    assert len(requirements) > 50
    assert [line for line in requirements if not re.match(r"[a-z0-9._-]+==\S+.* --hash=sha256:", line)] == []


def test_the_lock_holds_everything_the_project_asks_for() -> None:
    asked = [*SETTINGS["project"]["dependencies"], *SETTINGS["project"]["optional-dependencies"]["dev"]]
    names = {re.match(r"[A-Za-z0-9_.-]+", requirement)[0].lower() for requirement in asked}  # type: ignore[index]
    assert names - set(re.findall(r"^([a-z0-9._-]+)==", LOCK, re.MULTILINE)) == set()


@pytest.mark.parametrize("target", ["demo", "ui", "test", "test-slow", "bench", "bench-large", "lint"])
def test_every_target_sets_up_what_it_needs(target: str) -> None:
    makefile = (PROJECT / "Makefile").read_text(encoding="utf-8")
    assert re.search(rf"^{target}: \$\(READY\) ## ", makefile, re.MULTILINE)


def test_ci_runs_the_readme_s_test_command() -> None:
    script = (PROJECT / ".ci" / "run").read_text(encoding="utf-8")
    assert " make test\n" in script
    assert "make test" in (PROJECT / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("script", [".ci/run", ".ci/venv", ".ci/frontend"])
def test_the_scripts_are_sound_shell(script: str) -> None:
    shell = "bash" if script.endswith("run") else "sh"
    subprocess.run([shell, "-n", PROJECT / script], check=True)


def test_a_machine_without_a_recent_python_is_told_what_to_do(tmp_path: Path) -> None:
    old = tmp_path / "python3"
    old.write_text("#!/bin/sh\nexit 1\n")
    old.chmod(0o755)
    done = subprocess.run(
        ["/bin/sh", PROJECT / ".ci" / "venv", tmp_path / "venv"],
        check=False,
        capture_output=True,
        text=True,
        env={"PATH": "/nowhere", "PYTHON": str(old)},
    )
    assert done.returncode == 1
    assert "at least 3.11" in done.stderr
