"""Who is dead, as far as the cohort file says (SPEC 2.3).

When in doubt, nothing is sent: a message to somebody who has died hurts those who read it.
"""

from typing import Final, NamedTuple

from batch_pipeline.rules import cells

UNCLEAR: Final = "unclear"

# The answers that the `Deceased` column may hold, in capitals; anything else counts as deceased, and is called unclear.
YES: Final = ("Y", "YES", "TRUE", "1")
NO: Final = ("N", "NO", "FALSE", "0")


class Verdict(NamedTuple):
    """``detail`` is "unclear" when the file says something that nobody can read."""

    deceased: bool
    detail: str | None


def judge(date_of_death: str | None, deceased: str | None) -> Verdict:
    """What the two cells of a row say; either may be absent."""
    if not cells.is_empty(date_of_death):  # readable or not: somebody wrote a date of death
        return Verdict(deceased=True, detail=None)
    if deceased is None or cells.is_empty(deceased):
        return Verdict(deceased=False, detail=None)
    answer = cells.tidy(deceased).upper()
    if answer in NO:
        return Verdict(deceased=False, detail=None)
    return Verdict(deceased=True, detail=None if answer in YES else UNCLEAR)


def judge_sql(date_of_death: str, deceased: str) -> str:
    """`judge` as a DuckDB expression over two VARCHAR columns: STRUCT(deceased BOOLEAN, detail VARCHAR)."""
    answer = f"upper({cells.tidied_sql(deceased)})"
    alive, dead, unclear = _struct("FALSE"), _struct("TRUE"), _struct("TRUE", cells.quoted(UNCLEAR))
    return f"""CASE
        WHEN NOT {cells.empty_sql(date_of_death)} THEN {dead}
        WHEN {cells.empty_sql(deceased)} THEN {alive}
        WHEN {answer} IN ({_listed(NO)}) THEN {alive}
        WHEN {answer} IN ({_listed(YES)}) THEN {dead}
        ELSE {unclear}
    END"""


def _struct(deceased: str, detail: str = "NULL::VARCHAR") -> str:
    return f"{{'deceased': {deceased}, 'detail': {detail}}}"


def _listed(words: tuple[str, ...]) -> str:
    return ", ".join(map(cells.quoted, words))
