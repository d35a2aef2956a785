"""Pausing, resuming, cancelling and resolving from the shell, and what the circuit breaker does by itself."""

import pytest
import sqlalchemy as sa

from batch_pipeline.ledger import audit
from batch_pipeline.ledger.tables import attempts, chunks
from batch_pipeline_tests.e2e.surgery import Surgery, T, by_email, by_sms, hours, numbered

WHEN = "2026-10-01T09:00:00+00:00"


def approved(surgery: Surgery, batch: str = "flu", people: range = range(1, 4)) -> None:
    surgery.done("submit", surgery.batch(batch, numbered(by_sms, people)), at=T)
    surgery.done("approve", batch, "--by", "Dr Test", at=T)


@pytest.fixture(scope="module")
def planned(tmp_path_factory: pytest.TempPathFactory) -> Surgery:
    """Where most tests here begin: ``flu``, to three people by SMS, planned and approved. Only copies are worked in."""
    with pytest.MonkeyPatch.context() as here:
        here.delenv("LEDGER_URL", raising=False)
        surgery = Surgery(tmp_path_factory.mktemp("planned"))
        approved(surgery)
    return surgery


@pytest.fixture
def with_flu(surgery: Surgery, surgery_database: str, request: pytest.FixtureRequest) -> Surgery:
    """A surgery with that batch; planned anew where the ledger isn't a file that can be copied."""
    if surgery_database == "sqlite":
        surgery.become(request.getfixturevalue("planned"))
    else:
        approved(surgery)
    return surgery


def audited(surgery: Surgery) -> list[tuple[str, str, str | None]]:
    with surgery.house.ledger.read() as connection:
        every = audit.entries(connection)
    return [(e.who, e.action, e.batch) for e in every if e.action not in ("submit", "review", "approve")]


def test_a_paused_batch_sends_nothing_until_it_is_resumed(with_flu: Surgery) -> None:
    surgery = with_flu
    said = surgery.done("pause", "flu", "--by", "Dr Grey", "--because", "a slip in the text", at=T)
    assert said.out == f"flu: Dr Grey paused it at {WHEN}: a slip in the text\n"
    again = surgery.done("pause", "flu", "--by", "Dr White", at=T + hours(1))
    assert again.out == f"flu: already: Dr Grey paused it at {WHEN}: a slip in the text\n"

    assert surgery.done("dispatch", at=T).out == "nothing is waiting to be sent\n"
    assert surgery.done("dispatch", "flu", at=T).out == "flu: Scheduled (paused) (3 awaiting)\n"
    assert surgery.journal() == {}
    paused = {"at": WHEN, "by": "Dr Grey", "because": "a slip in the text", "all": False}
    surgery.status("flu", status="Scheduled", awaiting=3, paused=paused)
    shown = surgery.done("status", "flu").words
    assert f"flu: Scheduled (paused) paused by Dr Grey at {WHEN}: a slip in the text" in shown
    assert "(paused)" in surgery.done("status").words

    assert surgery.done("resume", "flu", "--by", "Dr White", at=T).out == f"flu: Dr White resumed it at {WHEN}\n"
    assert surgery.done("resume", "flu", "--by", "x").out == "flu: already: it isn't paused by itself\n"
    surgery.done("dispatch", at=T)
    assert len(surgery.sent_once()) == 3
    assert "paused" not in surgery.status("flu", status="Sending")
    assert audited(surgery) == [("Dr Grey", "pause", "flu"), ("Dr White", "resume", "flu")]


def test_a_pause_of_all_holds_what_comes_later_and_one_batch_cannot_be_let_go(with_flu: Surgery) -> None:
    surgery = with_flu
    said = surgery.done("pause", "--all", "--by", "Dr Grey", at=T)
    assert said.out == f"all batches: Dr Grey paused them at {WHEN}\n"
    assert "already: Dr Grey" in surgery.done("pause", "--all", "--by", "Dr White").out
    approved(surgery, "covid", range(4, 6))
    surgery.done("dispatch", at=T)
    surgery.done("dispatch", "covid", at=T)
    assert surgery.journal() == {}
    assert f"covid: Scheduled (paused) all batches are paused by Dr Grey at {WHEN}" in (
        surgery.done("status", "covid").words
    )
    said = surgery.done("resume", "flu", "--by", "Dr White", at=T).words
    assert "flu: already: it isn't paused by itself" in said
    assert f"nothing of it goes yet: Dr Grey paused all batches at {WHEN}; `batch-pipeline resume --all`" in said

    surgery.done("pause", "flu", "--by", "Dr Grey", at=T)
    said = surgery.done("resume", "--all", "--by", "Dr White", at=T).out
    assert said == f"all batches: Dr White resumed them at {WHEN}\nstill paused by themselves: flu\n"
    assert "already" in surgery.done("resume", "--all", "--by", "Dr White").out
    surgery.done("dispatch", at=T)
    assert surgery.sent_once() == {"covid:2:primary", "covid:3:primary"}


@pytest.mark.parametrize("command", ["pause", "resume"])
def test_either_one_batch_or_all(surgery: Surgery, command: str) -> None:
    for typed in (["--by", "x"], ["flu", "--all", "--by", "x"], ["flu"], ["--all"]):
        assert surgery.shell(command, *typed).code == 2


def test_a_decision_needs_the_name_of_a_person(with_flu: Surgery) -> None:
    surgery = with_flu
    for typed in (["pause", "flu"], ["pause", "--all"], ["resume", "flu"], ["resume", "--all"], ["cancel", "flu"]):
        for name in ("", "  ", "circuit breaker", "Circuit Breaker "):
            assert "say who decides this" in surgery.refused(*typed, "--by", name), (typed, name)
    assert audited(surgery) == []


def test_a_cancelled_batch_is_cancelled_for_ever_and_adds_up(with_flu: Surgery) -> None:
    surgery = with_flu
    said = surgery.done("cancel", "flu", "--by", "Dr Grey", at=T).out
    assert said == f"flu: Dr Grey cancelled it at {WHEN}\n0 messages and 0 queued fallbacks are not sent\n"
    assert surgery.done("cancel", "flu", "--by", "x").out == f"flu: already: Dr Grey cancelled it at {WHEN}\n"
    surgery.status("flu", status="Cancelled", cancelled=3, awaiting=0)
    assert surgery.done("dispatch", at=T).out == "nothing is waiting to be sent\n"
    for typed in (["resume", "flu", "--by", "x"], ["approve", "flu", "--by", "x"], ["dispatch", "flu"]):
        assert "is cancelled" in surgery.refused(*typed)
    assert surgery.journal() == {}

    # the same people, under another name
    approved(surgery, "flu-again")
    surgery.done("dispatch", at=T)
    assert len(surgery.sent_once()) == 3


def test_a_batch_that_nobody_approved_can_be_cancelled(surgery: Surgery) -> None:
    surgery.done("submit", surgery.batch("flu", numbered(by_sms, range(1, 4))), at=T)
    surgery.done("cancel", "flu", "--by", "Dr Grey", at=T)
    surgery.status("flu", status="Cancelled", cancelled=3)
    assert "cancelled" in surgery.refused("approve", "flu", "--by", "Dr Test")


def test_cancelled_in_the_middle_the_rest_is_reported_as_cancelled(with_flu: Surgery) -> None:
    """A part is sent, then more patients come in by a later plan, and the batch is cancelled before they are sent."""
    surgery = with_flu
    surgery.done("dispatch", at=T)
    with surgery.house.ledger.write() as connection:  # as if line 4 had not been begun
        unsent = {"chunk": None, "begun_at": None, "accepted_at": None}
        connection.execute(sa.update(attempts).where(attempts.c.line == 4).values(unsent))
    said = surgery.done("cancel", "flu", "--by", "Dr Grey", at=T).out
    assert "1 messages and 0 queued fallbacks are not sent" in said
    surgery.done("dispatch", at=T)
    surgery.status("flu", status="Cancelled", cancelled=1, awaiting=2)


@pytest.mark.parametrize("with_fallbacks", [False, True])
def test_the_fallbacks_of_a_cancelled_batch_go_on_unless_it_is_said(surgery: Surgery, with_fallbacks: bool) -> None:
    unread = by_sms(1)
    surgery.app_users(unread)
    surgery.fate(unread, "nhs_app", "silent")
    surgery.send(surgery.batch("flu", [unread]))
    surgery.done("cancel", "flu", "--by", "Dr Grey", *(["--with-fallbacks"] if with_fallbacks else []), at=T)
    surgery.done("sweep", at=T + hours(24))
    surgery.done("sweep", at=T + hours(25))
    surgery.done("report", "flu", at=T + hours(25))
    if with_fallbacks:
        assert surgery.sent_once() == {"flu:2:primary"}
        surgery.status("flu", status="Cancelled", failed=1, fallback_sent=0)
        (row,) = surgery.report("flu", "follow_up.csv")
        assert "No text followed: Cancelled with its fallbacks" in row.values()
    else:
        assert surgery.sent_once() == {"flu:2:primary", "flu:2:fallback"}
        surgery.status("flu", status="Cancelled", delivered=1, fallback_sent=1)
    assert surgery.done("sweep", at=T + hours(1000)).out == "nothing is due\n"


# What became of it


def doubtful(surgery: Surgery, *lines: int) -> None:
    """Puts sent messages into the state that a lost call to a provider leaves that can tell nothing."""
    with surgery.house.ledger.write() as connection:
        state = {"accepted_at": None, "unconfirmed_at": T}
        connection.execute(sa.update(attempts).where(attempts.c.line.in_(lines)).values(state))
        connection.execute(sa.update(chunks).values(outcome="unconfirmed"))


def test_unconfirmed_messages_are_listed_and_resolved(surgery: Surgery) -> None:
    for person in numbered(by_email, range(1, 5)):
        surgery.fate(person, "email", "silent")
    surgery.send(surgery.batch("flu", numbered(by_email, range(1, 5))))
    assert surgery.done("resolve", "flu").out == "flu: nothing is unconfirmed\n"
    doubtful(surgery, 2, 3, 4)
    surgery.status("flu", unconfirmed=3, emailed=1)
    listed = surgery.done("resolve", "flu")
    assert "flu: 3 messages that may or may not have been sent" in listed.words
    assert f"2 first message email simulator {WHEN}" in listed.words
    assert "example.org" not in listed.words
    assert "3 first message" not in surgery.done("resolve", "flu", "--line", 2).words

    assert "nothing is unconfirmed of line 5: look at" in (
        surgery.refused("resolve", "flu", "--line", 2, "--line", 5, "--sent", "--by", "Dr Grey", at=T)
    )
    surgery.done("resolve", "flu", "--line", 2, "--sent", "--by", "Dr Grey", at=T)
    surgery.status("flu", unconfirmed=2, emailed=2)
    said = surgery.done("resolve", "flu", "--not-sent", "--by", "Dr Grey", at=T).out
    assert said.startswith("flu, line 3: the first message by email was not sent: the next dispatch sends it")
    surgery.status("flu", unconfirmed=0, emailed=2, awaiting=2)
    surgery.done("dispatch", at=T)
    surgery.status("flu", status="Done", emailed=4)
    twice = [reference for reference, count in surgery.journal().items() if count == 2]
    assert twice == ["flu:3:primary", "flu:4:primary"]
    assert audited(surgery) == [("Dr Grey", "resolve", "flu")] * 3


def test_what_the_provider_tells_goes_before_what_a_person_says(surgery: Surgery) -> None:
    surgery.send(surgery.batch("flu", numbered(by_sms, range(1, 3))))
    doubtful(surgery, 2, 3)
    sentence = surgery.refused("resolve", "flu", "--line", 2, "--not-sent", "--by", "Dr Grey", at=T + hours(1))
    assert "nothing is unconfirmed of line 2" in sentence
    surgery.status("flu", delivered=2, unconfirmed=0)


def test_resolving_needs_one_answer_and_a_name(with_flu: Surgery) -> None:
    surgery = with_flu
    for typed in (["--sent", "--not-sent", "--by", "x"], ["--sent"], ["--not-sent"], ["--line", "x"]):
        assert surgery.shell("resolve", "flu", *typed).code == 2
    assert "say who decides this" in surgery.refused("resolve", "flu", "--sent", "--by", "")


# The circuit breaker


def test_a_failing_channel_pauses_its_batch_until_a_person_resumes_it(
    surgery: Surgery, monkeypatch: pytest.MonkeyPatch
) -> None:
    surgery.workspace(circuit_breaker={"share": 0.3, "least": 3})
    monkeypatch.setenv("BATCH_PIPELINE_SIMULATOR_CHUNK", "2")
    people = numbered(by_sms, range(1, 5))
    surgery.app_users(people[3])
    surgery.fate(people[0], "sms", "failed")
    surgery.fate(people[3], "nhs_app", "silent")
    surgery.send(surgery.batch("flu", people))
    said = surgery.done("sweep", at=T + hours(1)).words
    assert "flu: Sending (paused)" in said
    found = surgery.status("flu", failed=1, delivered=2)
    assert (found["paused"]["by"], found["paused"]["because"]) == (
        "circuit breaker",
        "1 of 3 messages by SMS failed, more than 30 %",
    )
    # its fallback waits, and goes when a person has looked
    assert surgery.done("sweep", at=T + hours(25)).out == "nothing is due\n"
    surgery.done("resume", "flu", "--by", "Dr Grey", at=T + hours(25))
    surgery.done("sweep", at=T + hours(25))
    surgery.done("sweep", at=T + hours(26))
    assert "flu:5:fallback" in surgery.sent_once()
    assert "paused" not in surgery.status("flu", delivered=3, failed=1, status="Done")
    assert audited(surgery) == [("circuit breaker", "pause", "flu"), ("Dr Grey", "resume", "flu")]


def test_the_setting_is_checked(surgery: Surgery) -> None:
    surgery.workspace(circuit_breaker={"share": 1.5})
    assert "circuit_breaker.share" in surgery.refused("submit", surgery.batch("flu", [by_sms(1)]))
