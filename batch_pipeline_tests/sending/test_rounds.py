"""Issue 3's acceptance: rounds of a thousand messages, killed, stopped and cut off; nobody twice, nobody lost.

A failure names its seed; ``ROUND=smtp:17 pytest -m slow -k round_of_the_environment`` plays that round alone.
"""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from batch_pipeline_tests.postgres import Cluster
from batch_pipeline_tests.sending.round_oracle import Facts, Message, faults
from batch_pipeline_tests.sending.round_services import SERVICES
from batch_pipeline_tests.sending.rounds import Plan, play

ROUNDS, AT_ONCE = 200, 10

# The oracle ----------------------------------------------------------------------------------------------------------

WELL = Message("r", "sms", "delivered", accepted=True, unconfirmed=False, refused_for=None)
UNCONFIRMED = replace(WELL, state="unconfirmed", accepted=False, unconfirmed=True)
REFUSED = replace(WELL, state="failed", accepted=False, refused_for="550")
FACTS = Facts(
    messages=(WELL,),
    taken={"r": 1},
    told={"r": {"delivered", "nothing"}},
    in_hand=(),
    cut_in_doubt=0,
    one_in_doubt=False,
    not_folded=0,
    violations=(),
)


def _of(message: Message, **more: Any) -> Facts:
    return replace(FACTS, **({"messages": (message,)} | more))


CASES: list[tuple[Facts, str]] = [
    (FACTS, ""),
    (replace(FACTS, taken={"r": 2}), "taken twice: 1 (r)"),
    (replace(FACTS, taken={}), "sent in the ledger, never taken"),
    (replace(FACTS, taken={"r": 1, "s": 1}), "1 messages that nobody was to send"),
    (replace(FACTS, told={"r": {"failed"}}), "is delivered, and by what was told of it failed"),
    (replace(FACTS, told={}), "by what was told of it accepted"),
    (replace(FACTS, told={"r": {"failed", "delivered"}}), ""),
    (replace(FACTS, told={"r": {"read", "delivered"}}), "by what was told of it read"),
    (replace(FACTS, not_folded=1), "1 receipts were stored and never folded"),
    (replace(FACTS, violations=("a batch isn't in its frame",)), "a batch isn't in its frame"),
    (_of(replace(WELL, state="queued"), taken={}), "lost"),
    (_of(replace(WELL, state="sending"), taken={}), "lost"),
    (_of(replace(WELL, channel="email", state="accepted")), ""),
    (_of(replace(WELL, channel="email", state="accepted"), told={"r": {"failed", "delivered"}}), "told of it failed"),
    (_of(REFUSED, taken={}), ""),
    (_of(REFUSED), "refused in the ledger, taken by the provider"),
    (_of(UNCONFIRMED), "unconfirmed, though its provider can settle that"),
    (_of(UNCONFIRMED, one_in_doubt=True), "1 unconfirmed that no dying process held, and 0 connections cut"),
    (_of(UNCONFIRMED, one_in_doubt=True, cut_in_doubt=1), ""),
    (_of(UNCONFIRMED, one_in_doubt=True, in_hand={"r"}, taken={}), ""),
    (_of(UNCONFIRMED, one_in_doubt=True, in_hand={"r"}, taken={"r": 2}), "taken twice"),
]


@pytest.mark.parametrize(("facts", "fault"), CASES)
def test_what_must_not_be_is_told(facts: Facts, fault: str) -> None:
    found = faults(facts)
    assert bool(found) == bool(fault)
    assert fault in "; ".join(found)


# The rounds ----------------------------------------------------------------------------------------------------------


def _play(plan: Plan, folder: Path, request: pytest.FixtureRequest) -> None:
    folder.mkdir()
    cluster: Cluster | None = request.getfixturevalue("own_cluster") if plan.postgresql else None
    try:
        found = faults(play(plan, folder, cluster))
    except AssertionError as fault:
        found = [str(fault)]
    again = f"ROUND={plan.provider}:{plan.seed} python -m pytest -m slow -k round_of_the_environment"
    assert not found, f"round {plan.provider}:{plan.seed} (again: {again}): {'; '.join(found)}"


@pytest.mark.parametrize("provider", SERVICES)
def test_a_round_of_a_hundred(tmp_path: Path, provider: str, request: pytest.FixtureRequest) -> None:
    _play(Plan.of(provider, 0, messages=100), tmp_path / "round", request)


@pytest.mark.slow
@pytest.mark.postgresql
@pytest.mark.parametrize("first", range(0, ROUNDS, AT_ONCE), ids=lambda first: f"seeds-{first}-{first + AT_ONCE - 1}")
@pytest.mark.parametrize("provider", SERVICES)
def test_rounds_of_a_thousand(tmp_path: Path, provider: str, first: int, request: pytest.FixtureRequest) -> None:
    for seed in range(first, first + AT_ONCE):
        _play(Plan.of(provider, seed), tmp_path / str(seed), request)


@pytest.mark.slow
@pytest.mark.postgresql
@pytest.mark.skipif("ROUND" not in os.environ, reason="ROUND=provider:seed names the round to play alone")
def test_the_round_of_the_environment(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    provider, _, seed = os.environ["ROUND"].partition(":")
    _play(Plan.of(provider, int(seed)), tmp_path / "round", request)
