import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import duckdb
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batch_pipeline.errors import Refused
from batch_pipeline.ledger.engine import Ledger
from batch_pipeline.ledger.hashing import KEY_VARIABLE, Hasher, hold_to_key, load_or_make_key

DUCK = duckdb.connect()
VALUES = st.lists(st.one_of(st.none(), st.text().filter(lambda text: "\0" not in text)), max_size=20)


@given(key=st.binary(min_size=16, max_size=200), values=VALUES)
def test_by_the_column_is_the_same_as_one_by_one(key: bytes, values: list[str | None]) -> None:
    hasher = Hasher(key)
    hasher.prepare(DUCK)
    found = DUCK.execute(f"SELECT {hasher.sql('v')} FROM (SELECT unnest($1::VARCHAR[]) AS v)", [values]).fetchall()
    assert [row[0] for row in found] == [None if value is None else hasher.hash(value) for value in values]


def test_it_is_hmac_sha_256_cut_to_128_bits() -> None:
    # RFC 4231, case 1
    assert Hasher(b"\x0b" * 20).hash("Hi There") == "b0344c61d8db38535ca8afceaf0bf12b"


def test_another_key_gives_other_hashes() -> None:
    assert Hasher(b"a" * 16).hash("9990000018") != Hasher(b"b" * 16).hash("9990000018")


def test_a_short_key_is_refused_and_none_is_shown() -> None:
    with pytest.raises(Refused, match="at least 16"):
        Hasher(b"short")
    assert "secret" not in repr(Hasher(b"a very secret key"))


def test_the_key_is_made_once_and_readable_by_its_owner_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(KEY_VARIABLE, raising=False)
    path = tmp_path / "home" / "hash.key"
    with ThreadPoolExecutor(8) as pool:
        keys = set(pool.map(lambda _: load_or_make_key(path), range(32)))
    assert len(keys) == 1
    assert len(keys.pop()) == 64
    assert [file.name for file in path.parent.iterdir()] == ["hash.key"]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_the_environment_goes_before_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY_VARIABLE, "from the environment")
    assert load_or_make_key(tmp_path / "hash.key") == b"from the environment"
    assert not (tmp_path / "hash.key").exists()


def test_a_ledger_is_held_to_the_key_it_was_begun_with(ledger: Ledger) -> None:
    mine = Hasher(b"the key of this home")
    hold_to_key(ledger, mine)
    hold_to_key(ledger, mine)
    with pytest.raises(Refused, match="nobody could tell who was sent to"):
        hold_to_key(ledger, Hasher(b"the key of another one"))
