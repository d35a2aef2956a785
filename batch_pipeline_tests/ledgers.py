"""Fixtures: ledgers to test with, on SQLite and on PostgreSQL. A test that takes one runs once on each."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from batch_pipeline.ledger.engine import Ledger
from batch_pipeline_tests import postgres, statements
from batch_pipeline_tests.ledger import given

ON_POSTGRESQL = pytest.param("postgresql", marks=pytest.mark.postgresql)
on_sqlite_alone = pytest.mark.parametrize("database", ["sqlite"], indirect=True)
"""For a test of what SQLite does and PostgreSQL doesn't: query plans as it tells them, its pragmas."""
on_postgresql_slowly = pytest.mark.parametrize(
    "database",
    ["sqlite", pytest.param("postgresql", marks=[pytest.mark.postgresql, pytest.mark.slow])],
    indirect=True,
)
"""For a test of many rounds, of which others have a part: on PostgreSQL it is of the slow run."""
on_postgresql_alone = pytest.mark.parametrize("database", [ON_POSTGRESQL], indirect=True)


def pytest_configure() -> None:
    statements.share_those_of_ledgers()


@pytest.fixture(scope="session")
def cluster() -> Iterator[postgres.Cluster]:
    """This process's PostgreSQL, started when it is first wanted."""
    with postgres.running() as started:
        yield started


@pytest.fixture(scope="session")
def own_cluster() -> Iterator[postgres.Cluster]:
    """Another for tests that kill it: what it has committed outlives that."""
    with postgres.running(durable=True) as started:
        yield started


@pytest.fixture(scope="module", params=["sqlite", ON_POSTGRESQL])
def database(request: pytest.FixtureRequest) -> str:
    """``sqlite`` or ``postgresql``."""
    return request.param


def _new_folders(database: str, request: pytest.FixtureRequest) -> Iterator[Callable[[], Path]]:
    folders: pytest.TempPathFactory = request.getfixturevalue("tmp_path_factory")
    made: list[str] = []

    def folder() -> Path:
        path = folders.mktemp(database)
        if database == "postgresql":
            cluster: postgres.Cluster = request.getfixturevalue("cluster")
            made.append(cluster.new_database())
            (path / given.ELSEWHERE).write_text(cluster.url(made[-1]))
        return path

    yield folder
    for name in made:
        request.getfixturevalue("cluster").take_back(name)


@pytest.fixture
def new_folder(database: str, request: pytest.FixtureRequest) -> Iterator[Callable[[], Path]]:
    """Makes folders, each with a new ledger: ``given.open_ledger``."""
    yield from _new_folders(database, request)


@pytest.fixture(scope="module")
def new_folder_of_module(database: str, request: pytest.FixtureRequest) -> Iterator[Callable[[], Path]]:
    """The same for a test of many examples, or what several tests share."""
    yield from _new_folders(database, request)


@pytest.fixture
def empty_database(database: str, request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The address of a ledger that nobody has opened yet."""
    if database == "sqlite":
        return f"sqlite:///{tmp_path}/ledger.sqlite"
    cluster: postgres.Cluster = request.getfixturevalue("cluster")
    return cluster.url(cluster.new_database(migrated=False))


@pytest.fixture
def folder(new_folder: Callable[[], Path]) -> Path:
    """A folder with a new ledger."""
    return new_folder()


@pytest.fixture
def ledger(folder: Path) -> Iterator[Ledger]:
    """A new ledger."""
    opened = given.open_ledger(folder)
    yield opened
    opened.close()


@pytest.fixture
def surgery_database(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Where a surgery keeps its ledger: in its home, unless a test is given ``postgresql``; the environment says so."""
    database: str = getattr(request, "param", "sqlite")
    if database == "sqlite":
        monkeypatch.delenv("LEDGER_URL", raising=False)
        yield database
        return
    cluster: postgres.Cluster = request.getfixturevalue("cluster")
    name = cluster.new_database()
    monkeypatch.setenv("LEDGER_URL", cluster.url(name))
    yield database
    cluster.take_back(name)
