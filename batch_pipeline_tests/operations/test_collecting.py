"""Hearing what became of messages: from several providers and a mailbox, whatever is wrong with one of them."""

import json
import shutil
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from batch_pipeline.errors import Refused
from batch_pipeline.home import Home
from batch_pipeline.house import House
from batch_pipeline.ledger import batches
from batch_pipeline.ledger.tables import batches as batches_table
from batch_pipeline.ledger.tables import chunks
from batch_pipeline.operations import controlling, dispatching
from batch_pipeline.providers._reference_tokens import ReferenceTokens
from batch_pipeline.providers.protocol import Receipt
from batch_pipeline.providers.simulator import Simulator
from batch_pipeline.sending import receipts
from batch_pipeline.settings import BatchFile
from batch_pipeline.templates import Message
from batch_pipeline_tests.ledger.given import NOW, Recipient, attempt_rows, begin, queue, set_attempts
from batch_pipeline_tests.providers import bounce_samples

LATER = NOW + timedelta(hours=1)
DAY = timedelta(days=1)
MAIL = {"host": "relay.example.test", "from_address": "no-reply@riverside.example.test", "username": "riverside"}


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    """A home whose workspace sends by four providers; the environment has no key of any of them."""
    home = Home(tmp_path / "home")
    home.init()
    (home.workspaces / "riverside.yaml").unlink()
    _workspace(home)
    (tmp_path / "mail").mkdir()
    house = House(home)
    yield house
    house.ledger.close()


def _workspace(home: Home, workspace: str = "riverside", box: str = "bounces", **keys: Any) -> None:
    known = {
        "id": workspace,
        "name": "A Surgery",
        "ods_code": "A99999",
        "organisation_type": "gp",
        "nation": "england",
        "providers": {"email": "smtp", "nhs_app": "simulator", "sms": "govuk_notify"},
        "smtp": {**MAIL, "bounces": str(home.root.parent / "mail" / box)},
        "govuk_notify": {"sms_template_id": "0f0f0f0f-0000-4000-8000-000000000003"},
        **keys,
    }
    (home.workspaces / f"{workspace}.yaml").write_text(json.dumps(known))


def _sent(house: House, batch: str = "flu", workspace: str = "riverside", *, line: int = 2) -> None:
    """Lines by email, text and App, of which nothing was heard yet."""
    said = {"type": "simple", "body": "Your flu jab is due."}
    file = BatchFile.model_validate({"batch": batch, "workspace": workspace, "cohort": "c.csv", "message": said})
    spec = batches.spec_json(
        {
            "batch_file": file.model_dump(mode="json", exclude_none=True),
            "message": Message("Your flu jab is due.", None, "body:1", None, None).as_dict(),
        }
    )
    plan = [
        Recipient(line, "email", "smtp"),
        Recipient(line + 1, "sms", "govuk_notify"),
        Recipient(line + 2, "nhs_app", "simulator"),
    ]
    queue(house.ledger, plan, batch, spec=spec, workspace=workspace, cohort_sha256=batch, message_key=batch)
    _begun_by_mail(house, batch, line)
    set_attempts(house.ledger, {"accepted_at": NOW}, batch=batch)


def _begun_by_mail(house: House, batch: str, line: int) -> None:
    begin(house.ledger, line, line + 1, line + 2, batch=batch, channel="email", provider="smtp")


def _bounce(house: House, *references: str, box: str = "bounces") -> None:
    tokens = ReferenceTokens(house.hasher.key_for("references in mail"))
    with (house.home.root.parent / "mail" / box).open("a") as file:
        for reference in references:
            mail = bounce_samples.EXIM.replace("MESSAGE-ID", f"<{tokens.token(reference)}@riverside.example.test>")
            file.write(f"From MAILER-DAEMON\n{mail}\n\n")


def _out_of_office(house: House) -> None:
    with (house.home.root.parent / "mail" / "bounces").open("a") as file:
        file.write(f"From somebody\n{bounce_samples.OUT_OF_OFFICE}\n\n")


def _break_the_mailbox(house: House) -> None:
    shutil.rmtree(house.home.root.parent / "mail")


def _told_by_callback(house: House, batch: str = "flu", line: int = 3) -> None:
    receipts.store(house.ledger, "govuk_notify", [Receipt("k", f"{batch}:{line}:primary", "delivered", NOW)], NOW)


def _break_the_simulator(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    def receipts_of(_: Simulator, now: datetime) -> Iterator[Sequence[Receipt]]:
        raise RuntimeError(f"a fault of ours at {now}")

    Simulator(house.home.simulator_path).waiting(NOW)  # now it has a store
    monkeypatch.setattr(Simulator, "receipts", receipts_of)


def _told(house: House, batch: str = "flu") -> list[tuple[int, str]]:
    """What is known of which line, beside its acceptance."""
    names = ("delivered_at", "read_at", "failed_at")
    return [
        (line, name[:-3])
        for line, *told in attempt_rows(house.ledger, "line", *names, batch=batch)
        for name, at in zip(names, told, strict=True)
        if at is not None
    ]


# One by one


def test_receipts_are_folded_without_any_key_for_sending(house: House) -> None:
    _sent(house)
    _told_by_callback(house)
    _bounce(house, "flu:2:primary")
    heard = dispatching.collect(house, "flu", LATER)
    assert (heard.folded, heard.other_mail) == (receipts.Folded(2, 0), 0)
    assert _told(house) == [(2, "failed"), (3, "delivered")]


def test_what_a_mailbox_cannot_tell_keeps_nobody_else_from_being_heard(house: House) -> None:
    _sent(house)
    _told_by_callback(house)
    _break_the_mailbox(house)
    with pytest.raises(Refused, match=r"smtp\.bounces: there is no .*: name the Maildir"):
        dispatching.collect(house, "flu", LATER)
    assert _told(house) == [(3, "delivered")]


def test_all_that_could_not_be_asked_are_named(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    _break_the_mailbox(house)
    _break_the_simulator(house, monkeypatch)
    sources = house.receipt_sources(house.workspace("riverside"))
    with pytest.raises(receipts.NotHeard, match="simulator: RuntimeError; smtp: Refused") as unheard:
        receipts.collect(house.ledger, sources, LATER)
    assert set(unheard.value.faults) == {"simulator", "smtp"}


def test_a_fault_of_ours_is_raised_as_it_is_when_the_rest_is_folded(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    _sent(house)
    _break_the_simulator(house, monkeypatch)
    _bounce(house, "flu:2:primary")
    with pytest.raises(RuntimeError, match="a fault of ours"):
        dispatching.collect(house, "flu", LATER)
    assert _told(house) == [(2, "failed")]


@pytest.mark.parametrize("breaks", ["mailbox", "simulator"])
def test_what_a_person_found_out_is_recorded_whatever_a_provider_says(
    house: House, monkeypatch: pytest.MonkeyPatch, breaks: str
) -> None:
    _sent(house)
    set_attempts(house.ledger, {"accepted_at": None, "unconfirmed_at": NOW}, line=2)
    if breaks == "mailbox":
        _break_the_mailbox(house)
    else:
        _break_the_simulator(house, monkeypatch)
    assert [each.line for each in controlling.resolve(house, "flu", [2], "Dr Grey", LATER, sent=True)] == [2]


def test_a_mailbox_keeps_nobodys_fallback_and_the_app_s_provider_does(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    _sent(house)
    _break_the_mailbox(house)
    monkeypatch.setattr(dispatching, "send", lambda *_: None)  # by GOV.UK Notify, which is no part of this
    with monkeypatch.context() as broken:
        _break_the_simulator(house, broken)
        with pytest.raises(RuntimeError, match="a fault of ours"):
            dispatching.fall_back(house, "flu", lambda: NOW + DAY)
    assert dispatching.fall_back(house, "flu", lambda: NOW + DAY)[0].queued == 1


# Reminders, of what was heard


def _asked(house: House, *, fallen_back: bool = True) -> None:
    """The same messages, with a questionnaire."""
    _sent(house)
    with house.ledger.write() as connection:
        connection.execute(sa.update(batches_table).values(questionnaire="smoking"))
    set_attempts(house.ledger, {"reminder_day": 3})
    set_attempts(house.ledger, {"delivered_at": NOW}, line=3)
    if fallen_back:
        set_attempts(house.ledger, {"no_fallback_at": NOW + DAY, "no_fallback_because": "no_number"}, line=4)


def _reminded(house: House) -> list[tuple[int, str]]:
    return [row for row in attempt_rows(house.ledger, "line", "step") if row[1].startswith("reminder")]


def test_a_mailbox_keeps_nobodys_reminder_but_those_by_mail(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    _asked(house)
    monkeypatch.setattr(dispatching, "send", lambda *_: None)
    with monkeypatch.context() as broken:
        _break_the_simulator(house, broken)
        _break_the_mailbox(house)
        with pytest.raises(RuntimeError, match="a fault of ours"):
            dispatching.remind(house, "flu", lambda: NOW + 3 * DAY)
        assert _reminded(house) == [(3, "reminder_3")]
    with pytest.raises(Refused, match=r"smtp\.bounces"):
        dispatching.remind(house, "flu", lambda: NOW + 3 * DAY)
    assert _reminded(house) == [(3, "reminder_3"), (4, "reminder_3")]
    (house.home.root.parent / "mail").mkdir()
    dispatching.remind(house, "flu", lambda: NOW + 3 * DAY)
    assert _reminded(house) == [(line, "reminder_3") for line in (2, 3, 4)]


def test_what_keeps_one_days_reminders_keeps_no_others(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """Patients who were sent to on other days have their reminders of other days at the same moment."""
    _asked(house)
    set_attempts(house.ledger, {"reminder_day": 6, "accepted_at": NOW - 3 * DAY}, line=2)
    tried: list[str] = []

    def send(_house: House, _batch: str, step: str, _clock: object) -> None:
        tried.append(step)
        if step == "reminder_3":
            raise Refused("sending by email stopped")

    monkeypatch.setattr(dispatching, "send", send)
    with pytest.raises(Refused, match="sending by email stopped"):
        dispatching.remind(house, "flu", lambda: NOW + 3 * DAY)
    assert tried == ["reminder_3", "reminder_6"]


def test_what_a_run_left_is_reported_and_saved_when_it_is_finished(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though the batch was reported meanwhile, paused: nothing is heard of an email that is taken."""
    _asked(house)
    monkeypatch.setattr(dispatching, "send", lambda *_: None)
    dispatching.remind(house, "flu", lambda: NOW + 3 * DAY)
    begin(house.ledger, 2, 3, 4, batch="flu", step="reminder_3", channel="email", provider="smtp")
    with house.ledger.write() as connection:
        connection.execute(sa.update(batches_table).values(reported_at=NOW, saved_at=NOW))
        connection.execute(sa.update(chunks).where(chunks.c.step == "reminder_3").values(settled_at=None))
    dispatching.remind(house, "flu", lambda: NOW + 4 * DAY)
    with house.ledger.read() as connection:
        assert batches.get(connection, "flu").reported_at is None


def test_a_text_that_is_due_as_well_goes_in_the_reminders_place(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """After an outage both are: whichever sensor comes first, the patient gets one of them."""
    _asked(house, fallen_back=False)
    monkeypatch.setattr(dispatching, "send", lambda *_: None)
    swept, _ = dispatching.remind(house, "flu", lambda: NOW + 3 * DAY)
    assert (swept.queued, swept.against) == (2, {"just_texted": 1})
    assert attempt_rows(house.ledger, "step", line=4) == [("primary",), ("fallback",)]


# When there is news


def test_a_bounce_is_news_until_it_was_read(house: House) -> None:
    _sent(house)
    assert dispatching.with_news(house, LATER) == []
    _bounce(house, "flu:2:primary")
    assert dispatching.with_news(house, LATER) == ["flu"]
    dispatching.collect(house, "flu", LATER)
    assert dispatching.with_news(house, LATER) == []


def test_mail_that_is_no_bounce_is_looked_at_once_and_counted_ever_after(house: House) -> None:
    _sent(house)
    _out_of_office(house)
    for news in (["flu"], []):
        assert dispatching.with_news(house, LATER) == news
        assert dispatching.collect(house, "flu", LATER).other_mail == 1


def test_the_last_batch_by_email_reads_the_mail_and_what_it_says_of_others_is_their_news(house: House) -> None:
    _sent(house)
    _sent(house, "covid", line=10)
    _bounce(house, "flu:2:primary")
    (reads,) = dispatching.with_news(house, LATER)
    dispatching.collect(house, reads, LATER)
    left = dispatching.with_news(house, LATER)
    assert left == ([] if reads == "flu" else ["flu"])
    for batch in left:
        dispatching.collect(house, batch, LATER)
    assert _told(house) == [(2, "failed")]


def test_each_workspace_has_a_mailbox_of_its_own_and_a_faulty_file_hides_no_other(house: House) -> None:
    _workspace(house.home, "hillside", "bounces-of-hillside")
    _sent(house)
    _sent(house, "covid", "hillside", line=10)
    _bounce(house, "covid:10:primary", box="bounces-of-hillside")
    assert dispatching.with_news(house, LATER) == ["covid"]
    (house.home.workspaces / "riverside.yaml").write_text("id: riverside\ncolour: red\n")
    assert dispatching.with_news(house, LATER) == ["covid"]


def test_a_mailbox_that_cannot_be_looked_at_is_news_so_that_a_person_is_told(house: House) -> None:
    _sent(house)
    _break_the_mailbox(house)
    (house.home.root.parent / "mail").touch()
    assert dispatching.with_news(house, LATER) == ["flu"]


def test_looking_for_news_of_mail_opens_none(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    _sent(house)
    _bounce(house, "flu:2:primary")
    (house.home.root.parent / "mail" / "bounces").chmod(0)
    assert dispatching.with_news(house, LATER) == ["flu"]


# Before anything is sent


def test_a_mailbox_where_nothing_can_ever_be_found_is_refused_beforehand(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("SMTP_PASSWORD", "GOVUK_NOTIFY_API_KEY"):
        key = "test-0f0f0f0f-0000-4000-8000-000000000001-0f0f0f0f-0000-4000-8000-000000000002"
        monkeypatch.setenv(f"BATCH_PIPELINE_{name}", key)
    workspace = house.workspace("riverside")
    house.check_providers(workspace)
    _break_the_mailbox(house)
    with pytest.raises(Refused, match=r"smtp\.bounces"):
        house.check_providers(workspace)
    with house.providers(workspace):  # and what is under way goes on
        pass
