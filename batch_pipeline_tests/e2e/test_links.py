"""A batch with an attachment, from the shell to the patient's browser, and what people decide about its links."""

import hashlib
import re
import zipfile
from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from batch_pipeline.gateway.app import make_app
from batch_pipeline.gateway.server import pages_of
from batch_pipeline.operations.inbox import is_planned, look
from batch_pipeline.providers.protocol import Answer, OutgoingMessage
from batch_pipeline.providers.simulator import Simulator
from batch_pipeline_tests.e2e.surgery import Person, Surgery, T, by_email, by_sms, csv_text, hours
from batch_pipeline_tests.e2e.test_restored import backup
from batch_pipeline_tests.gateway.patients import Browser, Client, words

SITE = "https://msg.larkfield.example.org"
LINK = re.compile(re.escape(SITE) + "/([0-9A-Za-z]{22})(?![0-9A-Za-z])")
BODY = "Dear {{ first_name }}, about your flu vaccination: {{ link }}"
PDF = b"%PDF-1.7 about flu"
DAY = timedelta(days=1)


@pytest.fixture
def posted(monkeypatch: pytest.MonkeyPatch) -> list[OutgoingMessage]:
    """Every message that the simulator is handed."""
    handed: list[OutgoingMessage] = []
    send = Simulator.send

    def note(self: Simulator, reference: str, messages: Sequence[OutgoingMessage], now: datetime) -> Answer:
        handed.extend(messages)
        return send(self, reference, messages, now)

    monkeypatch.setattr(Simulator, "send", note)
    return handed


def leaflet(
    surgery: Surgery,
    people: Sequence[Person] | str,
    batch: str = "flu",
    content: bytes = PDF,
    name: str = "leaflet.pdf",
) -> Path:
    surgery.workspace(links={"base_url": SITE})
    (surgery.desk / name).write_bytes(content)
    return surgery.batch(batch, people, message={"body": BODY, "attachment": name})


def browser(surgery: Surgery, now: datetime, address: str = "192.0.2.7") -> Browser:
    house = surgery.house
    return Browser(Client(make_app(house.ledger, {}, lambda: now, pages=pages_of(house)), address))


def token_in(message: OutgoingMessage) -> str:
    found = LINK.findall(message.text)
    assert len(found) == 1, message.text
    return found[0]


BORN = ("31", "1", "1980")
WRONG = ("1", "2", "1980")


@pytest.mark.both_ledgers
def test_a_batch_with_an_attachment_reaches_each_patient_by_their_own_link(
    surgery: Surgery, posted: list[OutgoingMessage]
) -> None:
    rows = [person.row() for person in (by_sms(1), by_email(2), by_sms(3))]
    rows[2]["Date of birth"] = ""  # which the link would ask for
    shown = surgery.done("submit", leaflet(surgery, csv_text(rows)), at=T).words
    sha256 = hashlib.sha256(PDF).hexdigest()
    kept = surgery.house.kept_attachment(sha256)
    assert kept.read_bytes() == PDF
    assert f"leaflet.pdf: PDF, 18 bytes, SHA-256 {sha256}" in shown
    assert str(kept) in shown
    assert f"{SITE}/YourPersonalLinkIsHere" in shown
    surgery.status("flu", rejected=1, patient_list=2)
    [rejected] = surgery.report("flu", "rejected_rows.csv")
    assert rejected["Reason code"] == "date_of_birth_missing"
    (surgery.desk / "leaflet.pdf").write_bytes(b"%PDF-1.7 changed since")

    surgery.done("send-test", "flu", "--to", "07700900123", at=T)
    assert posted.pop().text.endswith(f"{SITE}/YourPersonalLinkIsHere")
    surgery.done("approve", "flu", "--by", "Dr Test", at=T)
    surgery.done("dispatch", "flu", at=T)
    tokens = [token_in(message) for message in posted]
    assert len(set(tokens)) == 2
    for token in tokens:
        patient = browser(surgery, T + hours(1))
        assert "Larkfield Surgery" in patient.open(token).text
        assert patient.type_in(token, WRONG).status_code == 422
        assert patient.type_in(token, BORN).status_code == 303
        assert "leaflet.pdf" in words(patient.open(token))
        assert patient.download(token).content == PDF
    assert browser(surgery, T + 28 * DAY).open(tokens[0]).status_code == 404
    assert browser(surgery, T).open("YourPersonalLinkIsHere").status_code == 404
    for path in surgery.home.root.rglob("*"):
        assert not path.is_file() or not any(token.encode() in path.read_bytes() for token in tokens), path


def test_links_are_revoked_locked_followed_up_and_unlocked(surgery: Surgery, posted: list[OutgoingMessage]) -> None:
    people = [by_sms(1), by_sms(2), by_sms(3)]
    for person in people:
        surgery.fate(person, "sms", "delivered")
    surgery.send(leaflet(surgery, people))
    tokens = [token_in(message) for message in sorted(posted, key=lambda each: each.reference)]

    def opened() -> list[int]:
        return [browser(surgery, T + hours(2)).open(token).status_code for token in tokens]

    said = surgery.done("revoke", "flu", "--line", 2, "--by", "Dr Grey", at=T).out
    assert said == "flu, line 2: Dr Grey revoked 1 link for ever\n"
    again = surgery.done("revoke", "flu", "--line", 2, "--by", "x", at=T).out
    assert again == "flu, line 2: already: no link of it opens\n"
    assert "line 9 has no link" in surgery.refused("revoke", "flu", "--line", 9, "--by", "Dr Grey")
    assert "--by is empty" in surgery.refused("revoke", "flu", "--by", " ")
    assert opened() == [404, 200, 200]

    for _ in range(5):
        browser(surgery, T + hours(1)).type_in(tokens[1], WRONG)
    assert opened() == [404, 403, 200]
    surgery.done("sweep", at=T + hours(2))
    surgery.done("report", "flu", at=T + hours(3))
    [row] = surgery.report("flu", "follow_up.csv")
    assert (row["Line"], row["Code"], row["NHS number"]) == ("3", "link_locked", people[1].nhs)
    said = surgery.done("unlock", "flu", "--line", 3, "--by", "Dr Grey", at=T + hours(4)).out
    assert said == "flu, line 3: Dr Grey unlocked the link\n"
    assert "already" in surgery.done("unlock", "flu", "--line", 3, "--by", "Dr Grey", at=T + hours(4)).out
    assert browser(surgery, T + hours(4)).type_in(tokens[1], BORN).status_code == 303

    said = surgery.done("revoke", "flu", "--by", "Dr Grey", at=T + hours(5)).out
    assert said == "flu: Dr Grey revoked 2 links for ever\n"
    assert opened() == [404, 404, 404]


# What is refused: `check` and `submit` say the same


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("leaflet.pdf", b"<html>", "leaflet.pdf: it is none of what patients may be sent"),
        ("leaflet.pdf", b"\x89PNG\r\n\x1a\n", "leaflet.pdf: by its content it is a PNG image"),
        ("leaflet.pdf", b"%PDF-" + bytes(2_000), "leaflet.pdf: it has 2,005 bytes, the limit is 2,000"),
    ],
)
def test_a_file_that_patients_may_not_be_sent_is_refused(
    surgery: Surgery, monkeypatch: pytest.MonkeyPatch, name: str, content: bytes, says: str
) -> None:
    monkeypatch.setenv("BATCH_PIPELINE_MAX_ATTACHMENT_BYTES", "2000")
    assert says in surgery.refused("check", leaflet(surgery, [by_sms(1)], content=content, name=name))


def test_an_office_file_is_taken(surgery: Surgery) -> None:
    path = surgery.desk / "letter.docx"
    with zipfile.ZipFile(path, "w") as made:
        for part in ("[Content_Types].xml", "word/document.xml"):
            made.writestr(part, "")
    spec = leaflet(surgery, [by_sms(1)], content=path.read_bytes(), name="letter.docx")
    assert "letter.docx (Word document)" in surgery.done("check", spec).words


def test_what_is_missing_is_named_with_its_mend(surgery: Surgery) -> None:
    spec = leaflet(surgery, [by_sms(1)])
    (surgery.desk / "leaflet.pdf").unlink()
    assert "there is no file leaflet.pdf beside it" in surgery.refused("check", spec)
    surgery.workspace(links=None)
    (surgery.desk / "leaflet.pdf").write_bytes(PDF)
    assert "doesn't say where links lead: add links: {base_url: https://…}" in surgery.refused("check", spec)
    assert "doesn't say where links lead" in surgery.refused("submit", spec, at=T)
    assert list(surgery.home.kept_attachments.iterdir()) == []


@pytest.mark.parametrize(
    ("message", "says"),
    [
        ({"body": "Dear {{ first_name }}, see the leaflet."}, "write {{ link }} into the text"),
        ({"body": BODY, "subject": "See {{ link }}"}, "{{ link }} stands in the subject"),
    ],
)
def test_a_link_has_to_stand_in_the_text(surgery: Surgery, message: dict[str, str], says: str) -> None:
    leaflet(surgery, [by_sms(1)])
    spec = surgery.batch("flu", [by_sms(1)], message={**message, "attachment": "leaflet.pdf"})
    assert says in surgery.refused("check", spec)


def test_a_batch_without_an_attachment_knows_no_link(surgery: Surgery) -> None:
    surgery.workspace(links={"base_url": SITE})
    spec = surgery.batch("flu", [by_sms(1)], message={"body": BODY})
    assert "the message names {{ link }}" in surgery.refused("check", spec)


# The inbox


def test_a_batch_in_the_inbox_arrives_when_its_attachment_is_whole_too(surgery: Surgery) -> None:
    surgery.done("submit", leaflet(surgery, [by_sms(1)]), at=T)
    inbox = surgery.home.inbox
    assert sorted(path.name for path in inbox.iterdir()) == ["flu.csv", "flu.yaml", "leaflet.pdf"]
    house = surgery.house
    stamps = look(house, {}).stamps
    (inbox / "leaflet.pdf").write_bytes(PDF + b" and more")
    changed = look(house, stamps)
    assert changed.arrived == []
    [arrived] = look(house, changed.stamps).arrived
    assert not is_planned(house, arrived.batch, arrived.spec)
    (inbox / "leaflet.pdf").write_bytes(PDF)
    assert is_planned(house, "flu", "flu.yaml")

    spec = leaflet(surgery, [by_sms(2)], "covid", b"%PDF-1.7 about covid")
    said = surgery.refused("submit", spec, at=T)
    assert "leaflet.pdf: the inbox has another file of this name, of batch flu: rename yours" in said
    (inbox / "leaflet.pdf").unlink()
    assert "no file leaflet.pdf" in look(house, {}).faulty[0]


# Whole batches again


@pytest.mark.slow
def test_the_fallback_carries_the_link_that_the_app_message_had(
    surgery: Surgery, posted: list[OutgoingMessage]
) -> None:
    person = by_sms(1)
    surgery.app_users(person)
    surgery.fate(person, "nhs_app", "delivered")
    surgery.send(leaflet(surgery, [person]))
    surgery.done("sweep", at=T + hours(25))
    app, text = posted
    assert (app.channel, text.channel) == ("nhs_app", "sms")
    assert token_in(app) == token_in(text)
    assert browser(surgery, T + 28 * DAY).open(token_in(text)).status_code == 200
    assert browser(surgery, T + 30 * DAY).open(token_in(text)).status_code == 404


@pytest.mark.slow
def test_another_leaflet_is_another_message(surgery: Surgery, posted: list[OutgoingMessage]) -> None:
    """Or whoever had the one in the last 30 days would be held back from the other."""
    surgery.send(leaflet(surgery, [by_sms(1)]))
    surgery.send(leaflet(surgery, [by_sms(1)], "covid", b"%PDF-1.7 about covid", "covid.pdf"))
    assert len(posted) == 2
    held = leaflet(surgery, [by_sms(1), by_sms(2)], "again")
    assert "1 patient is held back" in surgery.done("submit", held, at=T).words


@pytest.mark.slow
def test_a_revoked_batch_sends_nothing_that_was_not_begun(surgery: Surgery, posted: list[OutgoingMessage]) -> None:
    surgery.done("submit", leaflet(surgery, [by_sms(1), by_sms(2)]), at=T)
    surgery.done("approve", "flu", "--by", "Dr Test", at=T)
    assert "flu has no links" in surgery.refused("revoke", "flu", "--by", "Dr Grey", at=T)
    surgery.done("pause", "flu", "--by", "Dr Grey", at=T)
    surgery.done("dispatch", "flu", at=T)
    said = surgery.done("revoke", "flu", "--line", 3, "--by", "Dr Grey", at=T).out
    assert said.endswith("1 message with them is not sent\n")
    surgery.done("resume", "flu", "--by", "Dr Grey", at=T)
    surgery.done("dispatch", "flu", at=T)
    assert len(posted) == 1
    surgery.status("flu", cancelled=1)


@pytest.mark.slow
def test_a_link_is_the_same_when_the_outbox_had_to_be_written_anew(
    surgery: Surgery, posted: list[OutgoingMessage]
) -> None:
    """After a ledger was restored from a copy that is older than the outbox: patients keep the address they have."""
    surgery.done("submit", leaflet(surgery, [by_sms(1)]), at=T)
    surgery.done("approve", "flu", "--by", "Dr Test", at=T)
    put_back = backup(surgery)
    surgery.done("dispatch", "flu", at=T)
    token = token_in(posted[0])
    put_back()
    surgery.shell("dispatch", "flu", at=T)  # which writes the outbox, and sends nothing
    assert len(posted) == 1
    assert browser(surgery, T + hours(1)).open(token).status_code == 503
    surgery.done("reconcile", "--by", "Dr Test", at=T)
    assert browser(surgery, T + hours(1)).open(token).status_code == 503
    surgery.done("resume", "--all", "--by", "Dr Test", at=T)
    assert browser(surgery, T + hours(1)).type_in(token, BORN).status_code == 303
