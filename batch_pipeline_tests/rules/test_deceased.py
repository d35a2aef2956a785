import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batch_pipeline.rules import deceased
from batch_pipeline.rules.deceased import Verdict
from batch_pipeline_tests.rules.duck import evaluate

ALIVE, DEAD, UNCLEAR = Verdict(False, None), Verdict(True, None), Verdict(True, deceased.UNCLEAR)
TABLE = [
    (None, None, ALIVE),
    ("", "", ALIVE),
    ("nan", "-", ALIVE),
    *[(None, answer, ALIVE) for answer in ("N", "no", "False", "0", " n ")],
    *[(None, answer, DEAD) for answer in ("Y", "yes", "True", "1", "\xa0TRUE")],
    *[(None, answer, UNCLEAR) for answer in ("?", "maybe", "2", "deceased", "01/02/2024", "N?")],
    *[("01/02/2024", answer, DEAD) for answer in (None, "N", "Y", "?")],
    *[(cell, None, DEAD) for cell in ("unknown", "0", "?", "00/00/0000")],
]
any_cell = st.one_of(
    st.none(), st.text(max_size=4), st.sampled_from(["n", "NO", "y", "ye\u200bs", "true", "0", "1", "-", " "])
)


@pytest.mark.parametrize(("date_of_death", "answer", "verdict"), TABLE)
def test_whom_the_file_calls_deceased(date_of_death: str | None, answer: str | None, verdict: Verdict) -> None:
    assert deceased.judge(date_of_death, answer) == verdict


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(any_cell, any_cell), min_size=1, max_size=60))
def test_sql_agrees_with_python(rows: list[tuple[str | None, str | None]]) -> None:
    found = evaluate(deceased.judge_sql, [row[0] for row in rows], [row[1] for row in rows])
    assert found == [tuple(deceased.judge(*row)) for row in rows]
