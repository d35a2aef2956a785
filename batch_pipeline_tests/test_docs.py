"""The documentation names what there is: every key, every command and option, and its links lead somewhere."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
from pydantic import BaseModel

from batch_pipeline import cli
from batch_pipeline.home import VARIABLE
from batch_pipeline.settings import BatchFile, Settings, Workspace
from batch_pipeline.templates import Template

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
COMMANDS = typer.main.get_command(cli.app).commands  # pyright: ignore[reportAttributeAccessIssue]


def _text(name: str) -> str:
    return (ROOT / name).read_text("utf-8")


def _models_in(annotation: object) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in getattr(annotation, "__args__", ()):
        yield from _models_in(part)


def _keys(model: type[BaseModel]) -> Iterator[str]:
    """The model's keys and those of all groups in it."""
    for name, field in model.model_fields.items():
        yield name
        for inner in _models_in(field.annotation):
            yield from _keys(inner)


def _section(title: str) -> str:
    return _text("docs/settings.md").split(f"\n## {title}\n", 1)[1].split("\n## ", 1)[0]


@pytest.mark.parametrize(
    ("model", "section"), [(Workspace, "A workspace file"), (BatchFile, "A batch file"), (Template, "A template")]
)
def test_every_key_of_a_file_is_explained(model: type[BaseModel], section: str) -> None:
    missing = [key for key in dict.fromkeys(_keys(model)) if f"`{key}`" not in _section(section)]
    assert missing == []


def test_every_environment_variable_is_explained() -> None:
    wanted = [VARIABLE, "LEDGER_URL", *(f"BATCH_PIPELINE_{name.upper()}" for name in Settings.model_fields)]
    assert [name for name in wanted if f"`{name}`" not in _section("Environment variables")] == []


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_command_is_explained_with_its_options(name: str) -> None:
    parts = re.split(rf"\n### `{name}\b", _text("docs/shell.md"))
    assert len(parts) == 2
    section = parts[1].split("\n### ", 1)[0]
    options = [option for parameter in COMMANDS[name].params for option in parameter.opts if option.startswith("--")]
    assert [option for option in options if option not in section and option != "--help"] == []


def test_the_shell_page_explains_exit_codes_and_the_home() -> None:
    page = _text("docs/shell.md")
    assert all(word in page for word in ("`--home`", "| 0 |", "| 1 |", "| 2 |"))


@pytest.mark.parametrize("command", ["make demo", "make test", "make ui"])
def test_the_readme_names_the_make_targets(command: str) -> None:
    assert command in _text("README.md")


def _anchors(page: Path) -> set[str]:
    """As GitHub makes them of headings."""
    titles = re.findall(r"^#+ (.+)$", page.read_text("utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_relative_links_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)\s]+)\)", page.read_text("utf-8"))
    for link in (link for link in links if not re.match(r"[a-z]+:", link)):
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        assert target.exists(), link
        assert not anchor or anchor in _anchors(target), link


def test_code_that_the_architecture_names_exists() -> None:
    page = _text("docs/architecture.md")
    houses = re.findall(r"`(batch_pipeline/\w+/?(?:\.py)?)`", page)
    assert houses
    assert [name for name in houses if not (ROOT / name).exists()] == []


def test_code_and_tests_that_the_journals_rules_name_exist() -> None:
    named = set(
        re.findall(r"`(?:\w+\.)?(\w+)`", "".join(re.findall(r"(?m)^\| .*? (\|.*)", _text("docs/claims-journal.md"))))
    )
    code = "".join(path.read_text("utf-8") for path in ROOT.glob("batch_pipeline*/**/*.py"))
    assert len(named) > 50
    assert [name for name in named if not re.search(rf"\b{name}\b", code)] == []


def test_pictures_stay_small() -> None:
    assert [path.name for path in (ROOT / "docs" / "images").glob("*") if path.stat().st_size > 400_000] == []
