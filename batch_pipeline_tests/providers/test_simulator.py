import sqlite3
import stat
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from batch_pipeline.errors import Refused
from batch_pipeline.providers.protocol import (
    Answer,
    Channel,
    OutcomeUnknown,
    OutgoingMessage,
    ProviderStopped,
    Receipt,
    Recovery,
)
from batch_pipeline.providers.simulator import Shares, Simulator, load_outcomes
from batch_pipeline_tests.ledger.given import nhs_number
from batch_pipeline_tests.processes import is_locked_against_others

NOW = datetime(2026, 10, 1, 9, tzinfo=UTC)
LATER = NOW + timedelta(days=30)
MINUTE = timedelta(minutes=1)


def message(line: int, channel: Channel = "sms", text: str = "Hello", series: str = "flu") -> OutgoingMessage:
    return OutgoingMessage(f"{series}:{line}:primary", channel, nhs_number(line), "+447700900123", text, None)


def messages(count: int, channel: Channel = "sms", series: str = "flu") -> list[OutgoingMessage]:
    return [message(line, channel, series=series) for line in range(count)]


def fetch(simulator: Simulator, now: datetime = LATER) -> list[Receipt]:
    return [receipt for batch in simulator.receipts(now) for receipt in batch]


def told(receipts: Sequence[Receipt]) -> list[tuple[Any, ...]]:
    return [(r.reference, r.kind, r.occurred_at, r.failure_kind) for r in receipts]


# Accepting


def test_it_says_what_it_is(tmp_path: Path) -> None:
    simulator = Simulator(tmp_path / "s.sqlite")
    assert (simulator.name, simulator.recovery, simulator.limits.messages) == ("simulator", Recovery.DEDUPLICATES, 1000)


@pytest.mark.usefixtures("awaited_disks")
def test_what_it_has_accepted_is_on_disk(tmp_path: Path) -> None:
    assert Simulator(tmp_path / "s.sqlite")._store().execute("PRAGMA synchronous").fetchone() == (2,)


def test_every_acceptance_stands_in_the_journal(tmp_path: Path) -> None:
    simulator = Simulator(tmp_path / "s.sqlite")
    assert simulator.send("c1", messages(2), NOW) == Answer()
    assert [(e.chunk, e.reference, e.channel, e.accepted_at) for e in simulator.journal()] == [
        ("c1", "flu:0:primary", "sms", NOW),
        ("c1", "flu:1:primary", "sms", NOW),
    ]


def test_a_chunk_posted_again_is_taken_once(tmp_path: Path) -> None:
    simulator = Simulator(tmp_path / "s.sqlite")
    for minutes in range(3):
        assert simulator.send("c1", messages(2), NOW + minutes * MINUTE) == Answer()
    assert len(list(simulator.journal())) == 2
    assert told(fetch(simulator)) == [(f"flu:{n}:primary", "delivered", NOW + 5 * MINUTE, None) for n in range(2)]


def test_a_message_in_two_chunks_shows_as_a_double_send(tmp_path: Path) -> None:
    simulator = Simulator(tmp_path / "s.sqlite")
    simulator.send("c1", messages(1), NOW)
    simulator.send("c2", messages(1), NOW)
    assert Counter(entry.reference for entry in simulator.journal()) == {"flu:0:primary": 2}
    assert len({receipt.provider_key for receipt in fetch(simulator)}) == 2


def test_a_reference_with_other_contents_is_a_fault(tmp_path: Path) -> None:
    simulator = Simulator(tmp_path / "s.sqlite")
    simulator.send("c1", messages(1), NOW)
    for other in (messages(2), [message(0, text="Another")], [message(1)]):
        with pytest.raises(ValueError, match="accepted with other contents"):
            simulator.send("c1", other, NOW)


def test_a_chunk_over_the_limit_is_a_fault(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at most 2"):
        Simulator(tmp_path / "s.sqlite", chunk=2).send("c1", messages(3), NOW)


def test_the_journal_can_only_grow_and_holds_nothing_personal(tmp_path: Path) -> None:
    Simulator(tmp_path / "s.sqlite").send("c1", messages(1), NOW)
    with sqlite3.connect(tmp_path / "s.sqlite") as store:
        for statement in ("DELETE FROM journal", "UPDATE journal SET chunk = 'x'"):
            with pytest.raises(sqlite3.IntegrityError, match="append-only"):
                store.execute(statement)
    for file in tmp_path.iterdir():
        assert nhs_number(0).encode() not in file.read_bytes()
        assert b"7700900123" not in file.read_bytes()
        assert stat.S_IMODE(file.stat().st_mode) == 0o600


@pytest.mark.parametrize("recovery", [Recovery.CAN_BE_ASKED, Recovery.NEITHER])
def test_standing_in_for_others_it_takes_whatever_is_posted(tmp_path: Path, recovery: Recovery) -> None:
    simulator = Simulator(tmp_path / "s.sqlite", recovery=recovery)
    simulator.send("c1", messages(1), NOW)
    simulator.send("c1", messages(2), NOW)
    assert [entry.reference[:5] for entry in simulator.journal()] == ["flu:0", "flu:0", "flu:1"]
    assert simulator.held(["flu:1:primary", "flu:2:primary"]) == {"flu:1:primary"}


def test_another_process_that_keeps_the_store_makes_the_outcome_unknown(tmp_path: Path) -> None:
    simulator = Simulator(tmp_path / "s.sqlite", timeout=timedelta(seconds=0.05))
    assert simulator.waiting(NOW) == 0
    other = sqlite3.connect(tmp_path / "s.sqlite", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(OutcomeUnknown):
        simulator.send("c1", messages(1), NOW)
    other.execute("ROLLBACK")
    assert simulator.send("c1", messages(1), NOW) == Answer()


# What becomes of a message


@pytest.mark.parametrize(("channel", "kind"), [("sms", "delivered"), ("email", "delivered"), ("nhs_app", "read")])
def test_what_nothing_names_is_delivered_or_read_after_five_minutes(
    tmp_path: Path, channel: Channel, kind: str
) -> None:
    simulator = Simulator(tmp_path / "s.sqlite")
    simulator.send("c1", [message(0, channel)], NOW)
    assert fetch(simulator, NOW + 5 * MINUTE - timedelta(microseconds=1)) == []
    assert told(fetch(simulator, NOW + 5 * MINUTE)) == [("flu:0:primary", kind, NOW + 5 * MINUTE, None)]


@pytest.mark.parametrize(
    ("channel", "outcome", "receipt"),
    [
        ("sms", "delivered", ("delivered", None)),
        ("sms", "read", ("delivered", None)),
        ("sms", "failed", ("failed", "permanent")),
        ("sms", "rejected", ("failed", "rejected")),
        ("sms", "silent", None),
        ("email", "read", ("delivered", None)),
        ("email", "failed", ("failed", "permanent")),
        ("nhs_app", "delivered", ("delivered", None)),
        ("nhs_app", "read", ("read", None)),
        ("nhs_app", "rejected", ("failed", "rejected")),
        ("nhs_app", "failed", ("failed", "permanent")),
        ("nhs_app", "silent", None),
    ],
)
def test_the_outcomes_file_says_exactly_what_happens_and_when(
    tmp_path: Path, channel: Channel, outcome: str, receipt: tuple[str, str | None] | None
) -> None:
    file = tmp_path / "outcomes.csv"
    file.write_text(f"nhs_number,channel,outcome,after_minutes\n{nhs_number(0)},{channel},{outcome},90\n")
    always_fails = Shares({channel: {"failed": 1.0}})
    simulator = Simulator(tmp_path / "s.sqlite", outcomes=file, shares=always_fails)
    simulator.send("c1", [message(0, channel)], NOW)
    expected = [] if receipt is None else [("flu:0:primary", receipt[0], NOW + 90 * MINUTE, receipt[1])]
    assert told(fetch(simulator)) == expected


def test_an_outcome_is_for_its_channel_alone_and_five_minutes_unless_it_says(tmp_path: Path) -> None:
    file = tmp_path / "outcomes.csv"
    numbers = [nhs_number(line) for line in range(3)]
    spaced = f"{numbers[2][:3]} {numbers[2][3:6]} {numbers[2][6:]}"
    file.write_text(
        "\ufeffNHS_Number,channel,outcome,after_minutes\r\n"
        f"{numbers[0]},sms,failed,\r\n\r\n{numbers[1]},sms,failed\r\n{spaced},email,failed,0.5\r\n",
        encoding="utf-8",
    )
    assert load_outcomes(file) == {
        (numbers[0], "sms"): ("failed", 300_000_000),
        (numbers[1], "sms"): ("failed", 300_000_000),
        (numbers[2], "email"): ("failed", 30_000_000),
    }


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("9990000018,sms,failed", None),
        ("999000001,sms,failed,5", "line 2: nhs_number must be ten digits"),
        ("9990000018,fax,failed,5", "line 2: channel must be one of email, nhs_app, sms"),
        ("9990000018,sms,lost,5", "line 2: outcome must be one of delivered, read, rejected, failed, silent"),
        ("9990000018,sms,failed,soon", "line 2: after_minutes must be a number"),
        ("9990000018,sms,failed,-1", "line 2: after_minutes must be a number"),
        ("9990000018,sms,failed,nan", "line 2: after_minutes must be a number"),
        ("9990000018,sms", "line 2: it has 2 cells"),
        ("9990000018,sms,failed,5,6", "line 2: it has 5 cells"),
        ("9990000018,sms,failed,5\n9990000018,sms,read,5", "line 3: the same patient and channel stand on line 2"),
    ],
)
def test_a_fault_in_the_outcomes_file_is_named_by_its_line(tmp_path: Path, line: str, says: str | None) -> None:
    file = tmp_path / "outcomes.csv"
    file.write_text(f"nhs_number,channel,outcome,after_minutes\n{line}\n")
    if says is None:
        load_outcomes(file)
        return
    with pytest.raises(Refused, match=r"outcomes\.csv, ") as refusal:
        Simulator(tmp_path / "s.sqlite", outcomes=file).check()
    assert says in str(refusal.value)
    assert "999000001" not in str(refusal.value)


@pytest.mark.parametrize("content", [b"", b"nhs;channel\n", b"\xff\xfe\x00", b'nhs_number,"channel\n'])
def test_what_is_no_outcomes_file_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "outcomes.csv").write_bytes(content)
    with pytest.raises(Refused, match=r"outcomes\.csv"):
        load_outcomes(tmp_path / "outcomes.csv")


def test_a_faulty_or_missing_outcomes_file_stops_the_run_before_anything_is_taken(tmp_path: Path) -> None:
    simulator = Simulator(tmp_path / "s.sqlite", outcomes=tmp_path / "none.csv")
    with pytest.raises(ProviderStopped, match="can't be read"):
        simulator.send("c1", messages(1), NOW)
    assert list(simulator.journal()) == []


# Shares


def test_shares_are_met_and_the_same_seed_gives_the_same_fates(tmp_path: Path) -> None:
    shares = Shares({"nhs_app": {"delivered": 0.3, "rejected": 0.1, "failed": 0.1, "silent": 0.2}})

    def fates(name: str, seed: int, chunks: int, series: str = "flu") -> dict[str, tuple[Any, ...]]:
        simulator = Simulator(tmp_path / name, seed=seed, shares=shares, chunk=10_000)
        size = 4_000 // chunks
        for start in range(0, 4_000, size):
            simulator.send(f"c{start}", messages(4_000, "nhs_app", series)[start : start + size], NOW)
        return {r.reference: (r.kind, r.failure_kind) for r in fetch(simulator)}

    first = fates("a", 1, 1)
    assert first == fates("b", 1, 8), "whatever the chunks"
    again = fates("d", 1, 1, "flu:3f9c01ab")
    assert first == {reference.replace(":3f9c01ab", ""): fate for reference, fate in again.items()}
    assert first != fates("c", 2, 1)
    counts = Counter(first.values())
    expected = {
        ("delivered", None): 0.3,
        ("failed", "rejected"): 0.1,
        ("failed", "permanent"): 0.1,
        ("read", None): 0.3,
    }
    assert counts.keys() == expected.keys()
    for fate, share in expected.items():
        assert counts[fate] / 4_000 == pytest.approx(share, abs=0.03)


@pytest.mark.parametrize(
    ("shares", "why"),
    [
        ({"lost_answers": 1.1}, "from 0 to 1"),
        ({"repeated_receipts": -0.1}, "from 0 to 1"),
        ({"outcomes": {"sms": {"failed": 0.6, "silent": 0.6}}}, "more than 1"),
    ],
)
def test_impossible_shares_are_refused(shares: dict[str, Any], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        Shares(**shares)


def test_a_lost_answer_is_lost_once_although_the_chunk_was_taken(tmp_path: Path) -> None:
    simulator = Simulator(tmp_path / "s.sqlite", shares=Shares(lost_answers=1.0))
    with pytest.raises(OutcomeUnknown, match="lost"):
        simulator.send("c1", messages(2), NOW)
    assert simulator.send("c1", messages(2), NOW) == Answer()
    assert len(list(simulator.journal())) == 2


# Receipts


def test_receipts_are_given_until_the_consumer_asks_on(tmp_path: Path) -> None:
    simulator = Simulator(tmp_path / "s.sqlite")
    simulator.send("c1", messages(3), NOW)
    assert simulator.waiting(NOW) == 0
    assert simulator.waiting(LATER) == 3
    first = next(simulator.receipts(LATER))
    assert len(first) == simulator.waiting(LATER) == 3
    again = list(simulator.receipts(LATER))
    assert again == [first]
    assert simulator.waiting(LATER) == 0
    assert fetch(simulator) == []


def test_it_tells_whose_receipts_are_due_by_their_references(tmp_path: Path) -> None:
    simulator = Simulator(tmp_path / "s.sqlite", shares=Shares(repeated_receipts=1.0))
    simulator.send("c1", messages(3), NOW)
    assert [*simulator.waiting_references(NOW)] == []
    assert sorted(*simulator.waiting_references(LATER)) == [f"flu:{n}:primary" for n in range(3)]


def test_repeated_receipts_come_twice_with_the_same_key(tmp_path: Path) -> None:
    simulator = Simulator(tmp_path / "s.sqlite", shares=Shares(repeated_receipts=0.5))
    simulator.send("c1", messages(1_000), NOW)
    keys = Counter(receipt.provider_key for receipt in fetch(simulator))
    assert len(keys) == 1_000
    assert Counter(keys.values())[2] == pytest.approx(500, abs=80)


def test_shuffled_receipts_come_all_but_in_another_order(tmp_path: Path) -> None:
    shuffling = Simulator(tmp_path / "s.sqlite", shares=Shares(shuffled_receipts=0.5))
    shuffling.send("c1", messages(1_000), NOW)
    given = [receipt.reference for receipt in fetch(shuffling)]
    assert sorted(given) == sorted(m.reference for m in messages(1_000))
    assert given != [m.reference for m in messages(1_000)]


def test_they_come_in_batches_and_none_is_forgotten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("batch_pipeline.providers.simulator._RECEIPTS_AT_ONCE", 7)
    simulator = Simulator(tmp_path / "s.sqlite", shares=Shares(repeated_receipts=0.3, shuffled_receipts=0.3))
    simulator.send("c1", messages(100), NOW)
    assert {receipt.reference for receipt in fetch(simulator)} == {m.reference for m in messages(100)}
    assert simulator.waiting(LATER) == 0


def test_opening_its_store_twice_in_one_process_keeps_the_locks_on_it(tmp_path: Path) -> None:
    path = tmp_path / "simulator.sqlite"
    first = Simulator(path)
    first.send("chunk", messages(1), NOW)
    assert is_locked_against_others(path)
    Simulator(path).send("chunk 2", [message(2)], NOW)
    assert is_locked_against_others(path)
    assert len(list(first.journal())) == 2
