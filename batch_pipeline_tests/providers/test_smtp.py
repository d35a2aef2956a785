import html
import random
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from batch_pipeline.errors import Refused
from batch_pipeline.providers import smtp
from batch_pipeline.providers.protocol import (
    Answer,
    ChunkTooLarge,
    NotTaken,
    OutcomeUnknown,
    OutgoingMessage,
    ProviderStopped,
    PutOff,
    Recovery,
    RefusedMessage,
    Unfinished,
)
from batch_pipeline.providers.smtp import Smtp, SmtpAccount
from batch_pipeline.rules.markdown import escaped
from batch_pipeline_tests.providers.mail_server import (
    PASSWORD,
    USERNAME,
    Certificate,
    Deed,
    MailServer,
    Taken,
    dribble,
    hang_up,
    log_in,
    make_certificate,
    reset,
    say_nothing,
    wait,
)

NOW = datetime(2026, 10, 1, 9, tzinfo=UTC)
ACCOUNT = SmtpAccount(
    host="127.0.0.1",
    port=25,
    from_address="no-reply@surgery.example.test",
    from_name="Riverside Surgery",
    bounce_address="bounce@surgery.example.test",
    message_id_domain="surgery.example.test",
    reference_key=b"a key for tests, and nothing else",
    security="none",
    timeout=timedelta(seconds=10),
)
ADDRESS = "patient17@example.test"
LARGE = (("A very long text, that no buffer between us can hold. " * 1_000) + "\n") * 60


def message(line: int = 17, **changes: Any) -> OutgoingMessage:
    standard = OutgoingMessage(
        f"flu-2026-10:{line}:primary", "email", "9990000018", ADDRESS, "Your flu jab is due.\n", "Your flu jab"
    )
    return replace(standard, **changes)


def provider(server: MailServer, **changes: Any) -> "closing[Smtp]":
    clock: Callable[[], float] = changes.pop("steady", time.monotonic)
    return closing(Smtp(replace(ACCOUNT, **({"port": server.port} | changes)), steady=clock))


def send(mail: Smtp, to_send: OutgoingMessage | None = None) -> Answer:
    return mail.send("a chunk", [to_send or message()], NOW)


def body(taken: Taken) -> str:
    """The plain text."""
    return part(taken, "plain")


def part(taken: Taken, subtype: str) -> str:
    found = taken.message.get_body((subtype,))
    assert found is not None
    return found.get_content().replace("\r\n", "\n")


def failure(server: MailServer, outcome: type[Unfinished], text: str = "", **changes: Any) -> Unfinished:
    """Sends, and gives what it raised: of exactly this kind."""
    with provider(server, **changes) as mail, pytest.raises(outcome) as raised:
        send(mail, message(text=text or "Your flu jab is due."))
    assert type(raised.value) is outcome
    return raised.value


def message_id(mail: Smtp, line: int) -> str:
    return f"<{mail._tokens.token(message(line).reference)}@surgery.example.test>"


def at(stage: str, deed: Deed, times: int = 1_000) -> Callable[[str], Deed | None]:
    left = [times]

    def fate(reached: str) -> Deed | None:
        if reached != stage or not left[0]:
            return None
        left[0] -= 1
        return deed

    return fate


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return make_certificate(tmp_path_factory.mktemp("certificate"))


@contextmanager
def secured(certificate: Certificate, fate: Callable[[str], Deed | None] = lambda _: None) -> Iterator[MailServer]:
    how = {"tls_context": certificate.context, "require_starttls": True, "auth_required": True}
    with MailServer(fate, how=how | {"authenticator": log_in}) as server:
        yield server


def log_in_with(certificate: Certificate, **changes: Any) -> dict[str, Any]:
    standard = {"security": "starttls", "ca_bundle": certificate.path, "username": USERNAME, "password": PASSWORD}
    return standard | changes


# What it is


def test_it_takes_one_message_a_call_and_cannot_be_asked() -> None:
    mail = Smtp(replace(ACCOUNT, per_minute=100))
    assert (mail.name, mail.recovery, mail.limits.messages) == ("smtp", Recovery.NEITHER, 1)
    assert (mail.limits.one_by_one, mail.limits.per_minute, mail.limits.timeout) == (True, 100, ACCOUNT.timeout)
    with pytest.raises(ChunkTooLarge):
        mail.send("a chunk", [message(1), message(2)], NOW)
    with pytest.raises(Unfinished):
        mail.held(["flu:1:primary"])
    assert mail.send("a chunk", [], NOW) == Answer()


def test_other_channels_stop_the_run() -> None:
    with pytest.raises(ProviderStopped, match="email only"):
        Smtp(ACCOUNT).send("a chunk", [message(channel="sms")], NOW)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"host": "mail.example.test"}, "smtp.security"),
        ({"host": "192.0.2.1"}, "smtp.security"),
        ({"from_address": "no-reply"}, "smtp.from_address"),
        ({"bounce_address": "bounce@a.test\r\nRCPT TO:<b@b.test>"}, "smtp.bounce_address"),
        ({"message_id_domain": "a b"}, "smtp.message_id_domain"),
        ({"username": "one"}, "smtp.password"),
        ({"username": "one", "password": "pässword"}, "ASCII"),
        ({"reference_key": b"short"}, "smtp.reference_key"),
        ({"timeout": timedelta(0)}, "smtp.timeout"),
    ],
)
def test_an_account_that_will_not_do_is_refused(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(Refused, match=says):
        replace(ACCOUNT, **changes)


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.9.9.9", "::1"])
def test_the_machine_itself_may_be_spoken_to_in_the_clear(host: str) -> None:
    assert replace(ACCOUNT, host=host).security == "none"


def test_no_secret_is_shown() -> None:
    account = replace(ACCOUNT, username="the user", password="the password")
    for text in (repr(account), repr(Smtp(account)), str(account)):
        assert not any(secret in text for secret in ("the user", "the password", "a key for tests"))


def test_certificates_that_cannot_be_read_are_refused(tmp_path: Path) -> None:
    with pytest.raises(Refused, match=r"smtp\.ca_bundle"):
        Smtp(replace(ACCOUNT, security="tls", ca_bundle=tmp_path / "none.pem"))
    (tmp_path / "empty.pem").touch()
    with pytest.raises(Refused, match=r"smtp\.ca_bundle"):
        Smtp(replace(ACCOUNT, security="tls", ca_bundle=tmp_path / "empty.pem"))


# The message


def test_the_message_as_it_arrives() -> None:
    text = "Dear Zoë,\n\n.a dot first\n..two\n" + "a long line " * 200 + "\nlast, without a line's end"
    with MailServer() as server, provider(server) as mail:
        assert send(mail, message(text=text, subject="Ihre Grippeimpfung – naïve ☺ " * 5)) == Answer()
    (taken,) = server.journal
    arrived = taken.message
    assert (taken.sender, taken.recipient, taken.options) == ("bounce@surgery.example.test", ADDRESS, ())
    assert arrived["From"] == "Riverside Surgery <no-reply@surgery.example.test>"
    assert arrived["To"] == ADDRESS
    assert arrived["Subject"] == ("Ihre Grippeimpfung – naïve ☺ " * 5).strip()
    assert arrived["Date"].datetime == NOW
    assert arrived["Auto-Submitted"] == "auto-generated"
    assert arrived.get_content_type() == "multipart/alternative"
    kinds = [(each.get_content_type(), each.get_content_charset()) for each in arrived.iter_parts()]
    assert kinds == [("text/plain", "utf-8"), ("text/html", "utf-8")]
    assert body(taken) == text + "\n"
    assert "<p>Dear Zoë,</p>" in part(taken, "html")
    assert taken.content.isascii()
    assert max(map(len, taken.content.split(b"\r\n"))) <= 998


def test_a_value_is_the_same_in_the_html_and_in_the_plain_text() -> None:
    name = "*Zo_e* <b>1.</b> [x](https://evil.example)"
    text = f"Dear {escaped(name)},\n\nplease **ring** us."
    with MailServer() as server, provider(server) as mail:
        send(mail, message(text=text, subject="<Your> flu jab"))
    (taken,) = server.journal
    assert body(taken) == f"Dear {name},\n\nplease **ring** us.\n"
    page = part(taken, "html")
    assert "<title>&lt;Your&gt; flu jab</title>" in page
    assert "<p>please <strong>ring</strong> us.</p>" in page
    assert html.unescape(re.sub("<[^>]+>", "", page.split("<p>")[1])).strip() == f"Dear {name},"
    assert "<b>" not in page


def test_the_message_id_is_the_references_own_in_every_process() -> None:
    with MailServer() as server:
        for line in (17, 17, 18):
            with provider(server) as mail:
                send(mail, message(line))
        with provider(server, reference_key=b"another key, of another house") as mail:
            send(mail, message(17))
    first, again, other, foreign = [taken.message["Message-ID"] for taken in server.journal]
    assert first == again
    assert len({first, other, foreign}) == 3
    assert first.endswith("@surgery.example.test>")
    assert b"flu" not in server.journal[2].content.lower().replace(b"flu jab", b"")


def test_the_bounce_address_carries_the_token_where_it_fits() -> None:
    with MailServer() as server, provider(server, verp=True) as mail:
        send(mail)
        send(mail, message(reference="a-name-as-long-as-people-make-them-for-their-batches:17:primary"))
    tagged, plain = [taken.sender for taken in server.journal]
    token = server.journal[0].message["Message-ID"].strip()[1:].partition("@")[0]
    assert tagged == f"bounce+{token}@surgery.example.test"
    assert plain == "bounce@surgery.example.test"


@pytest.mark.parametrize("end", ["\r\n", "\n", "\r", "\x0b", "\x85", "\u2028", "\0"])
def test_no_header_can_be_slipped_in(end: str) -> None:
    slipped = f"Your flu jab{end}Bcc: other@example.test{end}{end}Another body"
    with MailServer() as server, provider(server, from_name=f"Surgery{end}Bcc: other@example.test") as mail:
        assert send(mail, message(subject=slipped, text="one\n.\nRCPT TO:<other@example.test>\n")) == Answer()
    (taken,) = server.journal
    assert taken.message["Bcc"] is None
    assert taken.message["Subject"] == "Your flu jab Bcc: other@example.test Another body"
    assert body(taken) == "one\n.\nRCPT TO:<other@example.test>\n"


@pytest.mark.parametrize(
    "address",
    [
        "a@example.test>\r\nRCPT TO:<b@example.test",
        "a b@example.test",
        "<a@example.test>",
        "a@example.test,b@example.test",
        "a@b@example.test",
        "@example.test",
        "a@",
        "a",
        "",
        "a@exam\nple.test",
        "a@" + "é" * 300,
    ],
)
def test_an_address_that_is_none_is_refused_before_anybody_is_called(address: str) -> None:
    with MailServer() as server, provider(server) as mail:
        answer = send(mail, message(address=address))
    assert answer == Answer([RefusedMessage(message().reference, smtp.ADDRESS_NOT_VALID)])
    assert server.connections == 0


def test_letters_outside_ascii_before_the_at_go_only_to_a_server_that_takes_them() -> None:
    zoe = message(address="zoë@exämple.test")
    with MailServer(how={"enable_SMTPUTF8": True}) as server, provider(server) as mail:
        assert send(mail, zoe) == Answer()
        assert send(mail) == Answer()
    (taken, plain) = server.journal
    assert (taken.recipient, taken.options) == ("zoë@xn--exmple-cua.test", ("SMTPUTF8",))
    assert taken.message["To"] == "zoë@xn--exmple-cua.test"
    assert plain.options == ()
    with MailServer() as server, provider(server) as mail:
        assert send(mail, zoe) == Answer([RefusedMessage(zoe.reference, smtp.ADDRESS_NOT_ASCII)])
        assert send(mail) == Answer()
    assert server.connections == 1


def test_a_message_larger_than_the_server_takes_is_refused_before_it_is_sent() -> None:
    with MailServer(how={"data_size_limit": 5_000}) as server, provider(server) as mail:
        answer = send(mail, message(text="A very long text. " * 300))
        assert answer == Answer([RefusedMessage(message().reference, smtp.TOO_LARGE)])
        assert send(mail) == Answer()
    assert [stage for _, stage in server.stages if stage == "MAIL"] == ["MAIL"]


# Every stage, every outcome

_REFUSED_511 = Answer([RefusedMessage("flu-2026-10:17:primary", "5.1.1")])
_REFUSED_551 = Answer([RefusedMessage("flu-2026-10:17:primary", "551")])
_BEFORE_THE_DOT = ("greeting", "EHLO", "MAIL", "RCPT", "DATA")

TABLE: list[tuple[str, Deed, Answer | type[Unfinished]]] = [
    *((stage, hang_up, NotTaken) for stage in _BEFORE_THE_DOT),
    *((stage, reset, NotTaken) for stage in _BEFORE_THE_DOT),
    *((stage, "421 4.3.2 closing", NotTaken) for stage in _BEFORE_THE_DOT),
    *((stage, "451 4.7.1 later", PutOff if stage == "RCPT" else NotTaken) for stage in _BEFORE_THE_DOT),
    *(("RCPT", reply, PutOff) for reply in ("450 its mailbox is busy", "452 4.2.2 its mailbox is full")),
    *(
        ("RCPT", reply, NotTaken)
        for reply in ("452 4.3.1 our disk is full", "451 4.4.1 no route", "421 4.2.1 good-bye")
    ),
    *((stage, "nonsense", NotTaken) for stage in _BEFORE_THE_DOT),
    *((stage, "299 what?", NotTaken) for stage in _BEFORE_THE_DOT),
    *((stage, "250-" + "x" * 20_000, NotTaken) for stage in _BEFORE_THE_DOT),
    *((stage, "\r\n".join(["250-more"] * 1_000), NotTaken) for stage in _BEFORE_THE_DOT),
    ("greeting", "554 5.7.1 not you", ProviderStopped),
    ("EHLO", "550 5.7.1 not you", ProviderStopped),
    ("MAIL", "550 5.7.1 not you", ProviderStopped),
    ("MAIL", "530 5.7.0 log in first", ProviderStopped),
    ("MAIL", "552 5.1.1 too much", _REFUSED_511),
    ("RCPT", f"550 5.1.1 <{ADDRESS}>: nobody here", _REFUSED_511),
    ("RCPT", f"551 nobody here: {ADDRESS}", _REFUSED_551),
    ("RCPT", f"550 nobody here: {ADDRESS}", PutOff),
    ("RCPT", "550-5.1.1 two\r\n550 5.1.1 lines", _REFUSED_511),
    ("RCPT", "551 5.1.1.1 isn't a code", _REFUSED_551),
    ("RCPT", "530 5.7.0 log in first", ProviderStopped),
    ("DATA", "550 5.1.1 no", _REFUSED_511),
    ("DATA", "250 all right?", NotTaken),
    ("content", "421 4.3.2 closing", NotTaken),
    ("dot", hang_up, OutcomeUnknown),
    ("dot", reset, OutcomeUnknown),
    ("dot", "nonsense", OutcomeUnknown),
    ("dot", "354 go on", OutcomeUnknown),
    ("dot", "421 4.3.2 closing", NotTaken),
    ("dot", "451 4.3.0 later", NotTaken),
    ("dot", "550 5.1.1 no", _REFUSED_511),
    ("dot", f"550 {ADDRESS} no", PutOff),
    ("taken", hang_up, OutcomeUnknown),
    ("taken", reset, OutcomeUnknown),
    ("taken", "nonsense", OutcomeUnknown),
    ("taken", "\r\n".join(["250-more"] * 1_000), OutcomeUnknown),
    ("taken", "250 taken\r\n421 and goodbye", Answer()),
    ("taken", "250-many\r\n250 lines", Answer()),
]


@pytest.mark.parametrize(("stage", "deed", "outcome"), TABLE, ids=[f"{s}-{str(d)[:20]}" for s, d, _ in TABLE])
def test_what_is_known_hangs_on_the_stage_alone(stage: str, deed: Deed, outcome: Answer | type[Unfinished]) -> None:
    with MailServer(at(stage, deed)) as server, provider(server) as mail:
        if isinstance(outcome, Answer):
            assert send(mail) == outcome
        else:
            unfinished = failure(server, outcome)
            assert ADDRESS not in str(unfinished)
            assert bool(unfinished.retry_after) == issubclass(outcome, NotTaken)
        assert len(server.journal) == (stage == "taken" or outcome == Answer())


@pytest.mark.parametrize(("stage", "deed", "outcome"), TABLE, ids=[f"{s}-{str(d)[:20]}" for s, d, _ in TABLE])
def test_the_next_message_goes_out_whatever_became_of_the_last(
    stage: str, deed: Deed, outcome: Answer | type[Unfinished]
) -> None:
    with MailServer(at(stage, deed, times=1)) as server, provider(server) as mail:
        try:
            send(mail)
        except Unfinished:
            server.journal.clear()
        before = len(server.journal)
        assert send(mail, message(18)) == Answer()
        assert len(server.journal) == before + 1


def test_a_large_message_whose_server_goes_while_it_is_sent_was_not_taken() -> None:
    def read_a_little(talk: Any) -> Any:
        async def deed() -> None:
            await talk._reader.read(1_000)
            await reset(talk)

        return deed()

    with MailServer(at("content", read_a_little), how={"data_size_limit": None}) as server:
        failure(server, NotTaken, LARGE)


def test_nobody_there_is_not_taken() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
    with pytest.raises(NotTaken, match="refused"):
        send(Smtp(replace(ACCOUNT, port=port)))


def test_a_host_that_does_not_exist_is_not_taken(certificate: Certificate) -> None:
    with pytest.raises(NotTaken):
        send(Smtp(replace(ACCOUNT, host="nobody.invalid", security="tls")))


# Of whom a refusal speaks

OF_US = [
    ("RCPT", "530 5.7.0 log in first", "password"),
    ("RCPT", "535 log in first", "password"),
    ("RCPT", "550 5.7.57 client not authenticated", "password"),
    ("RCPT", "550 5.7.54 unable to relay", "smtp.host"),
    ("RCPT", "550 5.1.8 sender: domain not found", "smtp.bounce_address"),
    ("RCPT", "553 5.1.7 sender: bad syntax", "smtp.bounce_address"),
    ("RCPT", "550 5.7.27 sender: null MX", "smtp.bounce_address"),
    ("RCPT", "503 5.5.1 MAIL first", "smtp.host"),
    ("RCPT", "502 5.5.2 what?", "smtp.host"),
    ("RCPT", "550 5.4.5 daily quota", "may send no more"),
    ("DATA", "530 5.7.0 log in first", "password"),
    ("dot", "550 5.7.60 no permission to send as this sender", "smtp.from_address"),
    ("dot", "554 5.2.252 SendAsDenied", "smtp.from_address"),
    ("dot", "550 5.7.708 traffic not accepted from this IP", "smtp.host"),
]
OF_THE_RECIPIENT = [
    *(("RCPT", f"550 {code} no") for code in ("5.1.1", "5.1.2", "5.1.3", "5.1.10", "5.2.1", "5.2.2", "5.4.4")),
    ("RCPT", "556 5.1.10 null MX"),
    ("RCPT", "550 5.7.124 not in its list of allowed senders"),
    ("DATA", "554 5.1.1 no"),
    ("dot", "552 5.2.2 full"),
]
OF_EITHER = [
    ("RCPT", "554 5.7.1 relay access denied"),  # Postfix
    ("RCPT", "550 relay not permitted"),  # Exim; and "550 Unrouteable address"
    ("RCPT", "550 5.7.1 unable to relay"),  # Exchange; and a blocked recipient
    ("RCPT", "553 sorry, that domain isn't in my list of allowed rcpthosts (#5.7.1)"),  # qmail
    ("RCPT", "555 5.5.2 syntax error"),  # Gmail, of an odd recipient
    ("RCPT", "501 5.5.4 invalid arguments"),
    ("DATA", "554 5.5.1 no valid recipients"),
    ("dot", "554 5.6.0 no"),
    ("dot", "554 5.7.1 spam"),
    ("dot", "550 5.7.26 not authenticated by SPF or DKIM"),
    ("MAIL", "552 5.3.4 too large"),
]


@pytest.mark.parametrize(("stage", "reply", "says"), OF_US)
def test_a_refusal_that_speaks_of_us_stops_the_run_and_says_what_to_mend(stage: str, reply: str, says: str) -> None:
    with MailServer(at(stage, reply)) as server:
        stopped = str(failure(server, ProviderStopped))
    assert says in stopped
    assert " ".join(word for word in reply.split()[:2] if word[0].isdigit()) in stopped
    assert reply.rsplit(maxsplit=1)[-1] not in stopped.split()


@pytest.mark.parametrize(("stage", "reply"), OF_THE_RECIPIENT)
def test_a_refusal_that_speaks_of_the_recipient_fails_that_message_however_many_there_are(
    stage: str, reply: str
) -> None:
    with MailServer(at(stage, reply)) as server, provider(server) as mail:
        for line in range(12):
            assert send(mail, message(line)) == Answer([RefusedMessage(message(line).reference, reply.split()[1])])


@pytest.mark.parametrize(("stage", "reply"), OF_EITHER)
def test_the_third_message_in_a_row_shows_that_it_is_us_and_nobody_is_failed(stage: str, reply: str) -> None:
    with MailServer(at(stage, reply)) as server, provider(server) as mail:
        for line in range(2):
            with pytest.raises(PutOff) as put_off:
                send(mail, message(line))
            assert put_off.value.retry_after < timedelta(seconds=10)
        for line in (2, 0, 1, 3):
            with pytest.raises(ProviderStopped, match=rf"{reply[:3]}.*in a row.*the account's settings"):
                send(mail, message(line))
        server.fate = lambda _: None
        for line in range(4):
            assert send(mail, message(line)) == Answer()
    assert len(server.journal) == 4


@pytest.mark.parametrize(("stage", "reply"), OF_EITHER)
def test_offered_again_and_refused_again_it_is_that_message(stage: str, reply: str) -> None:
    with MailServer(at(stage, reply)) as server, provider(server) as mail:
        with pytest.raises(PutOff):
            send(mail)
        (refused,) = send(mail).refused
    assert refused.reference == message().reference


@pytest.mark.parametrize(("stage", "reply"), OF_EITHER)
def test_once_others_were_taken_a_refusal_is_final_and_only_many_in_a_row_are_ours(stage: str, reply: str) -> None:
    with MailServer() as server, provider(server) as mail:
        assert send(mail) == Answer()
        server.fate = at(stage, reply)
        assert [len(send(mail, message(line)).refused) for line in range(100, 109)] == [1] * 9
        with pytest.raises(ProviderStopped):
            send(mail, message(109))
        server.fate = lambda _: None
        assert send(mail, message(109)) == Answer()
        server.fate = at(stage, reply)
        assert [len(send(mail, message(line)).refused) for line in range(200, 209)] == [1] * 9


@pytest.mark.parametrize(
    "reply",
    [
        "454 4.7.1 relay access denied",  # Postfix as shipped
        "450 4.1.8 sender: domain not found",
        "450 4.1.7 sender: unverified",
    ],
)
def test_a_put_off_that_speaks_of_us_is_of_no_message(reply: str) -> None:
    with MailServer(at("RCPT", reply)) as server:
        assert reply[:9] in str(failure(server, NotTaken))


@pytest.mark.parametrize("reply", ["450 4.7.1 cannot find your hostname", "450 greylisted", "451 4.7.1 greylisted"])
def test_messages_put_off_in_a_row_are_put_off_because_of_us(reply: str) -> None:
    """Who is put off at every try ends as refused: so all would."""
    with MailServer(at("RCPT", reply)) as server, provider(server) as mail:
        kinds: list[type[Exception]] = []
        for line in (0, 0, 1, 2, 0):
            with pytest.raises(NotTaken) as raised:
                send(mail, message(line))
            kinds.append(type(raised.value))
        assert kinds == [PutOff, PutOff, PutOff, NotTaken, NotTaken]
        server.fate = lambda _: None
        assert send(mail, message(3)) == Answer()
        server.fate = at("RCPT", reply)
        with pytest.raises(PutOff):
            send(mail, message(0))


def test_full_mailboxes_are_the_mailboxes_however_many_there_are() -> None:
    with MailServer(at("RCPT", "452 4.2.2 full")) as server, provider(server) as mail:
        for line in range(12):
            with pytest.raises(PutOff):
                send(mail, message(line))


# Time


@pytest.mark.parametrize("deed", [say_nothing, dribble("250-slow\r\n", 0.01), dribble("x", 0.01)])
@pytest.mark.parametrize("stage", ["greeting", "EHLO", "DATA", "taken"])
def test_it_ends_in_time_however_the_server_dawdles(stage: str, deed: Deed) -> None:
    # A busy machine takes its time up to the dot, and then half of it must be left.
    outcome, seconds = (OutcomeUnknown, 1.0) if stage == "taken" else (NotTaken, 0.2)
    begun = time.monotonic()
    with MailServer(at(stage, deed)) as server, provider(server, timeout=timedelta(seconds=seconds)) as mail:
        with pytest.raises(outcome):
            send(mail)
        assert time.monotonic() - begun < seconds + 3


def test_half_the_time_is_kept_for_the_answer_to_the_dot() -> None:
    with MailServer(at("taken", wait(0.5))) as server, provider(server, timeout=timedelta(seconds=0.8)) as mail:
        assert send(mail) == Answer()
    with MailServer(at("DATA", wait(0.5))) as server:
        failure(server, NotTaken, timeout=timedelta(seconds=0.8))


def test_a_server_that_does_not_read_ends_in_time() -> None:
    begun = time.monotonic()
    with MailServer(at("content", say_nothing), how={"data_size_limit": None}) as server:
        failure(server, NotTaken, LARGE, timeout=timedelta(seconds=2))
    assert time.monotonic() - begun < 20  # the text is written before the clock starts; it would wait for ever


# TLS and logging in


def test_starttls_and_a_log_in(certificate: Certificate) -> None:
    with secured(certificate) as server, provider(server, **log_in_with(certificate)) as mail:
        assert send(mail) == Answer()
        assert send(mail, message(18)) == Answer()
    assert (len(server.journal), server.connections) == (2, 1)
    stages = [stage for _, stage in server.stages if stage != "slipped in"]
    assert stages[:6] == ["greeting", "EHLO", "STARTTLS", "EHLO", "AUTH", "MAIL"]


def test_tls_from_the_first_byte(certificate: Certificate) -> None:
    how = {"auth_require_tls": False, "authenticator": log_in}
    account = log_in_with(certificate, security="tls")
    with MailServer(tls=certificate.context, how=how) as server, provider(server, **account) as mail:
        assert send(mail) == Answer()
        assert send(mail, message(18)) == Answer()
    assert (len(server.journal), server.connections) == (2, 1)


@pytest.mark.parametrize("exclude", [["PLAIN"], ["LOGIN"]])
def test_it_logs_in_as_the_server_wants_it(certificate: Certificate, exclude: list[str]) -> None:
    how = {"auth_require_tls": False, "authenticator": log_in, "auth_exclude_mechanism": exclude}
    account = log_in_with(certificate, security="tls")
    with MailServer(tls=certificate.context, how=how) as server, provider(server, **account) as mail:
        assert send(mail) == Answer()


@pytest.mark.parametrize("security", ["tls", "starttls"])
@pytest.mark.parametrize("wrong", ["unknown authority", "another host", "out of date"])
def test_a_certificate_that_cannot_be_trusted_stops_the_run(
    tmp_path: Path, certificate: Certificate, security: str, wrong: str
) -> None:
    address, days = ("127.0.0.2" if wrong == "another host" else "127.0.0.1"), (-1 if wrong == "out of date" else 2)
    other = make_certificate(tmp_path, address, days=days)
    trusted = certificate.path if wrong == "unknown authority" else other.path
    implicit = other.context if security == "tls" else None
    with MailServer(tls=implicit, how={} if implicit else {"tls_context": other.context}) as server:
        stopped = failure(server, ProviderStopped, security=security, ca_bundle=trusted)
    assert "smtp.ca_bundle" in str(stopped)
    assert "MAIL" not in [stage for _, stage in server.stages]


def test_a_server_without_starttls_gets_no_mail() -> None:
    with MailServer() as server:
        assert "STARTTLS" in str(failure(server, ProviderStopped, security="starttls"))
    assert "MAIL" not in [stage for _, stage in server.stages]


SECURED_TABLE: list[tuple[str, Deed, type[Unfinished]]] = [
    ("STARTTLS", "454 4.7.0 not now", NotTaken),
    ("STARTTLS", "502 5.5.1 never", ProviderStopped),
    ("STARTTLS", hang_up, NotTaken),
    ("slipped in", "250-mail.example.test\r\n250 AUTH PLAIN", NotTaken),
    ("STARTTLS", "220 but no TLS comes", NotTaken),
    ("AUTH", "535 5.7.8 no", ProviderStopped),
    ("AUTH", "454 4.7.0 not now", NotTaken),
    ("AUTH", "421 4.7.0 too many tries", NotTaken),
    ("AUTH", "334 a", NotTaken),
    ("AUTH", hang_up, NotTaken),
]


@pytest.mark.parametrize(("stage", "deed", "outcome"), SECURED_TABLE)
def test_before_the_first_command_nothing_is_taken(
    certificate: Certificate, stage: str, deed: Deed, outcome: type[Unfinished]
) -> None:
    with secured(certificate, at(stage, deed)) as server:
        failure(server, outcome, **log_in_with(certificate, timeout=timedelta(seconds=2)))
    assert not server.journal


def test_a_wrong_password_is_tried_once_and_stops_the_run(certificate: Certificate) -> None:
    with secured(certificate) as server:
        stopped = failure(server, ProviderStopped, **log_in_with(certificate, password="another"))
    assert "AUTH" in str(stopped)
    assert "another" not in str(stopped)
    assert [stage for _, stage in server.stages].count("AUTH") == 1


def test_a_server_that_wants_no_log_in_stops_the_run(certificate: Certificate) -> None:
    how = {"auth_exclude_mechanism": ["PLAIN", "LOGIN"], "auth_require_tls": False}
    with MailServer(tls=certificate.context, how=how) as server:
        assert "AUTH" in str(failure(server, ProviderStopped, **log_in_with(certificate, security="tls")))


# Connections


def test_a_connection_is_used_again_and_ended_with_a_goodbye() -> None:
    with MailServer() as server:
        with provider(server) as mail:
            for line in range(10):
                send(mail, message(line))
        assert server.connections == 1
        assert server.stages[-1] == (1, "QUIT")
        assert send(mail, message(11)) == Answer()
        mail.close()
    assert server.connections == 2


def test_not_used_for_more_messages_than_servers_like() -> None:
    with MailServer() as server, provider(server) as mail:
        for line in range(smtp._MOST_MESSAGES + 1):
            send(mail, message(line))
    assert server.connections == 2


def test_not_used_when_it_was_idle_for_long() -> None:
    clock = [1_000.0]
    with MailServer() as server, provider(server, steady=lambda: clock[0]) as mail:
        for pause in (0, 29, 31):
            clock[0] += pause
            send(mail)
    assert server.connections == 2


def test_a_connection_that_the_server_has_closed_meanwhile_is_replaced() -> None:
    with MailServer(how={"timeout": 0.1}) as server, provider(server) as mail:
        send(mail)
        time.sleep(0.3)
        assert send(mail, message(18)) == Answer()
    assert (len(server.journal), server.connections) == (2, 2)


@pytest.mark.parametrize("deed", [hang_up, reset, "421 4.7.0 enough for one connection"])
def test_one_that_turns_out_to_be_gone_at_its_first_command_is_replaced(deed: Deed) -> None:
    mails = [0]

    def fate(stage: str) -> Deed | None:
        mails[0] += stage == "MAIL"
        return deed if stage == "MAIL" and mails[0] == 2 else None

    with MailServer(fate) as server, provider(server) as mail:
        send(mail)
        assert send(mail, message(18)) == Answer()
    assert (len(server.journal), server.connections) == (2, 2)


def test_threads_have_a_connection_each() -> None:
    with MailServer(at("taken", wait(0.02))) as server, provider(server) as mail:

        def send_some(first: int) -> None:
            for line in range(first, first + 10):
                send(mail, message(line))

        threads = [threading.Thread(target=send_some, args=(start,)) for start in (0, 100, 200)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert set(server.references().values()) == {1}
    assert (len(server.journal), server.connections) == (30, 3)


def test_at_most_one_message_a_connection_is_unknown_whatever_is_dropped() -> None:
    chance = random.Random(7)
    stages = ["greeting", "EHLO", "MAIL", "RCPT", "DATA", "dot", "taken"]

    def fate(stage: str) -> Deed | None:
        return chance.choice([hang_up, reset]) if stage in stages and chance.random() < 0.07 else None

    told: dict[int, list[str]] = {line: [] for line in range(200)}
    with MailServer(fate) as server, provider(server) as mail:
        for line, outcomes in told.items():
            while not outcomes or outcomes[-1] == "NotTaken":
                try:
                    send(mail, message(line))
                    outcomes.append("taken")
                except Unfinished as unfinished:
                    outcomes.append(type(unfinished).__name__)
        ids = {line: message_id(mail, line) for line in told}
    journal = server.references()
    times = {line: journal[ids[line]] for line in told}
    ended = {line: outcomes[-1] for line, outcomes in told.items()}
    unknown = [line for line, outcome in ended.items() if outcome == "OutcomeUnknown"]
    assert all(times[line] == 1 for line, outcome in ended.items() if outcome == "taken")
    assert {times[line] for line in unknown} == {0, 1}, "both kinds of drop have to happen for this to say anything"
    assert any("NotTaken" in outcomes for outcomes in told.values())
    assert len(unknown) <= server.dropped_after_the_dot
    assert server.dropped_after_the_dot <= server.connections
