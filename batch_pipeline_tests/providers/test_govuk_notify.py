import logging
import os
import random
import socket
import ssl
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from notifications_python_client.authentication import create_jwt_token
from notifications_python_client.errors import HTTPError
from urllib3.connection import HTTPConnection

from batch_pipeline.clocks import seconds_since_boot
from batch_pipeline.errors import Refused
from batch_pipeline.providers.govuk_notify import GovukNotify, GovukNotifyAccount
from batch_pipeline.providers.govuk_notify_client import GatedClient, was_never_written
from batch_pipeline.providers.protocol import (
    Answer,
    Channel,
    NotTaken,
    OutcomeUnknown,
    OutgoingMessage,
    ProviderStopped,
    Recovery,
    RefusedMessage,
    Unfinished,
)
from batch_pipeline.sending._run import LEASE
from batch_pipeline_tests.ledger.given import lines, mobile, nhs_number
from batch_pipeline_tests.providers.govuk_notify_double import (
    API_KEY,
    EMAIL_TEMPLATE,
    SECRET,
    SENDER,
    SERVICE,
    SMS_TEMPLATE,
    Fault,
    GovukNotifyDouble,
    Template,
    denial,
)
from batch_pipeline_tests.sending.worlds import Clock, World

NOW = datetime(2026, 10, 1, 9, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
HTML = b"<html>07700900123</html>"


@pytest.fixture
def double() -> Iterator[GovukNotifyDouble]:
    with GovukNotifyDouble().running() as running:
        yield running
    assert running.violations == []


def govuk(double: GovukNotifyDouble, *, timeout: float = 10, workers: int = 4, **account: Any) -> GovukNotify:
    standard = {
        "api_key": API_KEY,
        "base_url": double.url,
        "sms_template_id": SMS_TEMPLATE,
        "email_template_id": EMAIL_TEMPLATE,
    }
    made = GovukNotifyAccount(**(standard | account))
    return GovukNotify(made, timeout=timedelta(seconds=timeout), workers=workers)


def reference(line: int) -> str:
    return f"flu:{line}:primary"


def message(line: int, channel: Channel = "sms", text: str = "Hello", subject: str | None = None) -> OutgoingMessage:
    address = mobile(line) if channel == "sms" else f"patient{line}@example.test"
    return OutgoingMessage(reference(line), channel, nhs_number(line), address, text, subject)


def messages(count: int) -> list[OutgoingMessage]:
    return [message(line) for line in range(count)]


def unfinished(provider: GovukNotify, posted: Sequence[OutgoingMessage]) -> Unfinished:
    with pytest.raises(Unfinished) as raised:
        provider.send("c1", posted, NOW)
    return raised.value


def outcome(provider: GovukNotify, posted: Sequence[OutgoingMessage]) -> Answer | Unfinished:
    try:
        return provider.send("c1", posted, NOW)
    except Unfinished as error:
        return error


def test_it_says_what_it_is(double: GovukNotifyDouble) -> None:
    provider = govuk(double, timeout=30)
    assert (provider.name, provider.recovery) == ("govuk_notify", Recovery.CAN_BE_ASKED)
    limits = provider.limits
    assert (limits.messages, limits.timeout, limits.per_minute, limits.one_by_one) == (100, 3 * MINUTE / 6, 3000, True)
    assert (limits.remembers, limits.account) == (timedelta(days=6), SERVICE)


def test_no_repr_shows_the_key() -> None:
    account = GovukNotifyAccount(API_KEY, SMS_TEMPLATE)
    assert not any(
        secret in text for secret in (SECRET, API_KEY) for text in (repr(account), repr(GovukNotify(account)))
    )


# Taken


def test_every_message_is_taken_once_with_its_own_words(double: GovukNotifyDouble) -> None:
    provider = govuk(double)
    posted = [message(0, text="Hello – é 你"), message(1, "email", "Long\n\ntext", "A subject")]
    assert provider.send("c1", posted, NOW) == Answer()
    taken = {taken.reference: (taken.channel, taken.recipient, dict(taken.content)) for taken in double.journal}
    assert taken == {
        reference(0): ("sms", mobile(0), {"body": "Hello – é 你"}),
        reference(1): ("email", "patient1@example.test", {"subject": "A subject", "body": "Long\n\ntext"}),
    }
    assert set(double.counts().values()) == {1}


def test_the_senders_that_the_account_names_are_passed_on(double: GovukNotifyDouble) -> None:
    provider = govuk(double, sms_sender_id=SENDER, email_reply_to_id=SENDER)
    assert provider.send("c1", [message(0), message(1, "email", subject="S")], NOW) == Answer()


def test_workers_keep_a_connection_each_from_call_to_call(double: GovukNotifyDouble) -> None:
    double.chance = lambda _reference, _before: Fault(delay=0.005)
    provider = govuk(double, workers=4)
    for chunk in range(3):
        provider.send(f"c{chunk}", messages(40), NOW)
    assert (double.most_at_once, double.connections) == (4, 4)
    assert provider.held([reference(line) for line in range(50)]) == {reference(line) for line in range(40)}
    assert double.connections == 4


def test_a_fork_leaves_its_parents_connections_alone(
    double: GovukNotifyDouble, monkeypatch: pytest.MonkeyPatch
) -> None:
    provider = govuk(double, workers=1)
    provider.send("c1", messages(1), NOW)
    monkeypatch.setattr(os, "getpid", lambda: -1)
    provider.send("c2", messages(1), NOW)
    assert double.connections == 2


# One message: every row of the contract's table


REFUSED = [
    ("BadRequestError", denial(400, "BadRequestError")),
    ("ValidationError", denial(400, "ValidationError")),
]
NOT_TAKEN = [
    (NotTaken, MINUTE, "a minute", denial(429, "RateLimitError")),
    (ProviderStopped, 0 * MINUTE, "until midnight", denial(429, "TooManyRequestsError")),
    (ProviderStopped, 0 * MINUTE, "api_key", denial(403, "AuthError")),
]
UNKNOWN = [
    *(denial(status, "InternalServerError") for status in (500, 502, 503, 504)),
    *(Fault(status=status, body=HTML) for status in (500, 502, 503, 504)),
    Fault("drop", takes=False),
    Fault("drop"),
    Fault("reset", takes=False),
    Fault("reset"),
    Fault("not json"),
    Fault(body=b""),
    Fault(body=b"[" * 5_000),
    Fault("list"),
    Fault("other reference"),
    Fault(status=204, body=b""),
    Fault(body=b"{}", headers={"Content-Length": "50"}),
    Fault("hang", takes=False),
    Fault("hang"),
    Fault("dribble"),
    Fault("redirect", status=302),
    Fault("redirect", status=307),
    Fault("redirect", status=308, takes=False),
    denial(400, "07700900123"),
    *(Fault(status=status, body=HTML, takes=False) for status in (400, 403, 429)),
    *(Fault(status=400, body=body, takes=False) for body in (b"[]", b'{"errors":[]}', b'{"errors":[{"error":1}]}')),
    denial(403, "BadRequestError"),
    denial(429, "AnotherError"),
    denial(401, "AuthError"),
    denial(404, "NoResultFound"),
    denial(418, "RateLimitError"),
]


@pytest.mark.parametrize(("code", "fault"), REFUSED)
def test_a_bad_request_is_that_messages_failure(double: GovukNotifyDouble, code: str, fault: Fault) -> None:
    double.post_faults[reference(1)] = [fault]
    assert govuk(double).send("c1", messages(3), NOW) == Answer((RefusedMessage(reference(1), code),))
    assert double.counts() == {reference(0): 1, reference(2): 1}


@pytest.mark.parametrize(("kind", "pause", "says", "fault"), NOT_TAKEN)
def test_a_denial_means_that_it_was_not_taken(
    double: GovukNotifyDouble, kind: type[Unfinished], pause: timedelta, says: str, fault: Fault
) -> None:
    double.post_faults[reference(0)] = [fault]
    raised = unfinished(govuk(double), messages(1))
    assert type(raised) is kind
    assert raised.retry_after == pause
    assert says in str(raised)


@pytest.mark.parametrize("fault", UNKNOWN, ids=repr)
def test_everything_else_is_unknown_and_posted_once(double: GovukNotifyDouble, fault: Fault) -> None:
    double.post_faults[reference(0)] = [fault]
    raised = unfinished(govuk(double, timeout=0.6), messages(1))
    assert type(raised) is OutcomeUnknown
    assert (raised.accepted, raised.refused) == ((), ())
    assert double.posts == {reference(0): 1}


@pytest.mark.parametrize("fault", [*(fault for *_, fault in REFUSED + NOT_TAKEN), UNKNOWN[0], Fault("not json")])
def test_no_error_and_no_log_quotes_the_servers_words_or_the_key(
    double: GovukNotifyDouble, fault: Fault, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    double.post_faults[reference(0)] = [fault]
    told = outcome(govuk(double), messages(1))
    if isinstance(told, Unfinished):
        assert told.__cause__ is told.__context__ is None
    for personal in ("07700900123", mobile(0), SECRET):
        assert personal not in caplog.text
        assert personal not in repr(told)


def test_another_key_stops_the_run(double: GovukNotifyDouble) -> None:
    raised = unfinished(govuk(double, api_key=f"a-key-{SERVICE}-{SERVICE}"), messages(5))
    assert type(raised) is ProviderStopped
    assert double.unauthorised > 0


def test_a_netrc_does_not_replace_the_token(
    double: GovukNotifyDouble, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "netrc").write_text("default login somebody password else\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    assert govuk(double).send("c1", messages(1), NOW) == Answer()


def test_the_daily_limit_ends_the_chunk_with_what_was_taken(double: GovukNotifyDouble) -> None:
    double.daily_limit = 3
    raised = unfinished(govuk(double, workers=1), messages(10))
    assert type(raised) is ProviderStopped
    assert raised.accepted == tuple(reference(line) for line in range(3))
    assert sum(double.posts.values()) == 4


def test_the_reason_is_why_the_call_ended_and_not_that_it_did(double: GovukNotifyDouble) -> None:
    double.post_faults[reference(0)] = [denial(429, "RateLimitError")]
    assert "in a minute" in str(unfinished(govuk(double, workers=1), messages(10)))


# The template, before the first post


FITS: list[tuple[Channel, Template, dict[str, str]]] = [
    ("sms", Template("sms", "((body))"), {}),
    ("sms", Template("sms", "((Text of it))"), {"sms_body": "text_of-it"}),
    ("email", Template("email", "((body))", "((subject))"), {}),
    ("email", Template("email", "((words))", "((title))"), {"email_body": "words", "email_subject": "title"}),
]
DOES_NOT_FIT: list[tuple[Channel, Template, dict[str, str], str]] = [
    ("sms", Template("email", "((body))", "S"), {}, "names a template of type email: name one of type sms"),
    ("email", Template("sms", "((body))"), {}, "names a template of type sms: name one of type email"),
    ("sms", Template("sms", "Hello"), {}, "has no fields and must have ((body)) alone"),
    ("sms", Template("sms", "((name)): ((body))"), {}, "has ((name)) ((body)) and must have ((body)) alone"),
    ("sms", Template("sms", "((body))((late??You are late))"), {}, "((late))"),
    ("sms", Template("sms", "((body))"), {"sms_body": "text"}, "must have ((text)) alone"),
    ("email", Template("email", "((body))", "News"), {}, "must have ((body)) ((subject)) alone"),
]


def template_id(channel: Channel) -> str:
    return SMS_TEMPLATE if channel == "sms" else EMAIL_TEMPLATE


@pytest.mark.parametrize(("channel", "template", "account"), FITS)
def test_a_template_of_our_fields_alone_fits(
    double: GovukNotifyDouble, channel: Channel, template: Template, account: dict[str, Any]
) -> None:
    double.templates[template_id(channel)] = template
    assert govuk(double, **account).send("c1", [message(1, channel, subject="S")], NOW) == Answer()


@pytest.mark.parametrize(("channel", "template", "account", "says"), DOES_NOT_FIT)
def test_a_template_that_does_not_fit_stops_the_run_before_anything_is_posted(
    double: GovukNotifyDouble, channel: Channel, template: Template, account: dict[str, Any], says: str
) -> None:
    double.templates[template_id(channel)] = template
    raised = unfinished(govuk(double, **account), [message(1, channel, subject="S")])
    assert type(raised) is ProviderStopped
    assert f"govuk_notify.{channel}_template_id" in str(raised)
    assert says in str(raised)
    assert double.posts == {}


def test_a_template_of_another_service_stops_the_run(double: GovukNotifyDouble) -> None:
    raised = unfinished(govuk(double, sms_template_id=SENDER), messages(3))
    assert type(raised) is ProviderStopped
    assert "govuk_notify.sms_template_id isn't a template of this service: copy it again" in str(raised)
    assert double.posts == {}


def test_a_template_is_looked_up_once_a_channel_however_many_call(double: GovukNotifyDouble) -> None:
    provider = govuk(double)
    double.template_faults = [Fault(delay=0.05)]
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda line: provider.send(f"c{line}", [message(line)], NOW), range(8)))
    provider.send("c9", [message(9, "email", subject="S")], NOW)
    assert double.template_look_ups == {SMS_TEMPLATE: 1, EMAIL_TEMPLATE: 1}
    assert len(double.journal) == 9


@pytest.mark.parametrize(
    ("fault", "kind", "pause"),
    [
        (denial(403, "AuthError"), ProviderStopped, 0 * MINUTE),
        (denial(429, "RateLimitError"), NotTaken, MINUTE),
        *(
            (fault, NotTaken, 0 * MINUTE)
            for fault in (
                denial(500, "Exception"),
                Fault(status=404, body=HTML),
                Fault(status=400, body=HTML),
                Fault("drop"),
                Fault("not json"),
                Fault("list"),
                Fault("hang"),
                Fault("dribble"),
                Fault(body=b"{}"),
                Fault(body=b'{"id": "another", "type": "sms", "personalisation": {}}'),
                Fault(body=b'{"id": "%s", "type": "sms"}' % SMS_TEMPLATE.encode()),
                Fault(body=b'{"id": "%s", "type": "sms", "personalisation": null}' % SMS_TEMPLATE.encode()),
            )
        ),
    ],
    ids=repr,
)
def test_without_an_answer_about_the_template_nothing_is_posted_and_it_is_asked_again(
    double: GovukNotifyDouble, fault: Fault, kind: type[Unfinished], pause: timedelta
) -> None:
    double.template_faults = [fault]
    provider = govuk(double, timeout=0.6)
    began = time.monotonic()
    raised = unfinished(provider, messages(2))
    assert time.monotonic() - began < 0.7
    assert type(raised) is kind
    assert raised.retry_after == pause
    assert double.posts == {}
    assert provider.send("c1", messages(2), NOW) == Answer()


# Of whom a 400 speaks


OF_US = [
    ("BadRequestError", "Can't send to this recipient using a team-only API key", "live key"),
    ("BadRequestError", "Cannot send to this recipient using a team-only API key.", "live key"),
    ("BadRequestError", "Can’t send to this recipient when service is in trial mode – see https://x", "trial mode"),
    ("BadRequestError", "Service is not allowed to send text messages", "switch this channel on"),
    ("BadRequestError", "Template not found", "id"),
    ("BadRequestError", "Template has been deleted", "deleted"),
    ("BadRequestError", "email template is not suitable for sms notification", "another channel"),
    ("BadRequestError", "Missing personalisation: name", "fields"),
    ("BadRequestError", f"sms_sender_id {SENDER} does not exist in database for service id x", "sms_sender_id"),
    ("ValidationError", "template_id is not a valid UUID", "copy the ids"),
    ("ValidationError", "phone_number is a required property", "report it"),
]
OF_THE_RECIPIENT = [
    ("ValidationError", "phone_number Not a UK mobile number"),
    ("ValidationError", "phone_number Not enough digits"),
    ("ValidationError", "email_address Not a valid email address"),
    ("BadRequestError", "Cannot send to international mobile numbers"),
    ("InvalidPhoneError", "Number 07700900123 isn't one"),
    ("InvalidEmailError", "Not a valid email address"),
]
OF_EITHER = [
    ("BadRequestError", "07700900123 is something new"),
    ("BadRequestError", "Your message is empty."),
    ("BadRequestError", "Text messages cannot be longer than 918 characters. Your message is 919 characters"),
]


@pytest.mark.parametrize(("name", "words", "says"), OF_US)
def test_a_400_that_speaks_of_us_stops_the_run_and_says_what_to_mend(
    double: GovukNotifyDouble, name: str, words: str, says: str
) -> None:
    double.post_faults[reference(1)] = [denial(400, name, message=words)]
    raised = unfinished(govuk(double, workers=1), messages(5))
    assert type(raised) is ProviderStopped
    assert says in str(raised)
    assert words not in str(raised)
    assert raised.accepted == (reference(0),)
    assert raised.refused == ()
    assert sum(double.posts.values()) == 2


@pytest.mark.parametrize(("name", "words"), OF_THE_RECIPIENT)
def test_a_400_that_speaks_of_the_recipient_fails_that_message_however_many_there_are(
    double: GovukNotifyDouble, name: str, words: str
) -> None:
    double.chance = lambda _reference, _before: denial(400, name, message=words)
    answer = govuk(double).send("c1", messages(15), NOW)
    assert {(one.reference, one.failure_code) for one in answer.refused} == {(reference(n), name) for n in range(15)}


@pytest.mark.parametrize(("name", "words"), OF_EITHER)
@pytest.mark.parametrize("workers", [1, 4])
def test_a_400_that_may_be_either_is_ours_when_several_come_in_a_row_and_fails_nobody(
    double: GovukNotifyDouble, name: str, words: str, workers: int
) -> None:
    double.chance = lambda _reference, _before: denial(400, name, message=words)
    provider = govuk(double, workers=workers)
    raised = unfinished(provider, messages(50))
    assert type(raised) is ProviderStopped
    assert "in a row" in str(raised)
    assert (raised.accepted, raised.refused) == ((), ())
    assert sum(double.posts.values()) < 3 + workers
    double.chance = lambda _reference, _before: None
    assert provider.send("c2", messages(50), NOW) == Answer()


def test_after_others_were_taken_only_many_in_a_row_are_ours(double: GovukNotifyDouble) -> None:
    provider = govuk(double, workers=1)
    provider.send("c1", [message(99)], NOW)
    double.post_faults = {reference(line): [BAD] for line in (*range(9), *range(10, 20))}
    raised = unfinished(provider, messages(30))
    assert type(raised) is ProviderStopped
    assert raised.accepted == (reference(9),)
    assert [one.reference for one in raised.refused] == [reference(line) for line in range(9)]


def test_a_template_that_is_deleted_meanwhile_stops_the_run(double: GovukNotifyDouble) -> None:
    provider = govuk(double)
    provider.send("c1", messages(1), NOW)
    double.templates[SMS_TEMPLATE] = replace(double.templates[SMS_TEMPLATE], archived=True)
    raised = unfinished(provider, messages(5))
    assert type(raised) is ProviderStopped
    assert "was deleted" in str(raised)


# By TLS


def test_by_tls_it_posts_only_to_whom_it_can_trust(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    certificate = write_certificate(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    with GovukNotifyDouble(context).running() as double:
        raised = unfinished(govuk(double), messages(1))
        assert type(raised) is NotTaken  # what it asks for first is the template
        assert "SSLError" in str(raised)
        assert double.posts == {}
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate))
        assert govuk(double).send("c1", messages(20), NOW) == Answer()
        late = GatedClient.make(API_KEY, double.url, seconds_since_boot)
        with pytest.raises(HTTPError) as closed:
            late.client.get_all_notifications(reference="r")
        assert was_never_written(closed.value)
    assert double.violations == []
    assert double.look_ups == {}


def write_certificate(folder: Path) -> Path:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "a test")])
    now = datetime.now(UTC)
    names = x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))])
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), 1, now - MINUTE, now + 60 * MINUTE)
        .add_extension(names, critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    plain = serialization.NoEncryption()
    pem = serialization.Encoding.PEM
    path = folder / "certificate.pem"
    path.write_bytes(made.public_bytes(pem) + key.private_bytes(pem, serialization.PrivateFormat.PKCS8, plain))
    return path


# Nobody there


def test_where_nobody_listens_nothing_was_taken() -> None:
    double = GovukNotifyDouble()
    url = double.url
    with double.running():
        pass
    raised = unfinished(govuk(double, base_url=url), messages(3))
    assert type(raised) is NotTaken
    assert "can't be connected to" in str(raised)


def test_a_connection_that_cannot_be_made_in_time_took_nothing() -> None:
    with closing(socket.create_server(("127.0.0.1", 0), backlog=0)) as full:
        address = full.getsockname()
        with closing(socket.create_connection(address)):
            account = GovukNotifyAccount(API_KEY, SMS_TEMPLATE, base_url=f"http://127.0.0.1:{address[1]}")
            raised = unfinished(GovukNotify(account, timeout=timedelta(seconds=1)), messages(1))
    assert type(raised) is NotTaken
    assert "ConnectTimeout" in str(raised)


def test_a_name_that_cannot_be_found_took_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: object, **__: object) -> Any:
        raise socket.gaierror(socket.EAI_NONAME, "unknown")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    account = GovukNotifyAccount(API_KEY, SMS_TEMPLATE, base_url="https://notify.example.test")
    assert type(unfinished(GovukNotify(account), messages(1))) is NotTaken


def test_a_kept_connection_that_ended_meanwhile_is_made_anew(double: GovukNotifyDouble) -> None:
    provider = govuk(double, workers=1)
    double.post_faults[reference(0)] = [Fault(headers={"Connection": "close"}), Fault("drop", takes=False)]
    assert provider.send("c1", messages(1), NOW) == Answer()
    assert type(unfinished(provider, messages(1))) is OutcomeUnknown
    assert provider.send("c3", messages(1), NOW) == Answer()
    assert double.connections == 3


# The deadline


def test_a_dribbling_server_holds_nobody_and_the_others_are_known(double: GovukNotifyDouble) -> None:
    double.post_faults[reference(0)] = [Fault("dribble")]
    began = time.monotonic()
    raised = unfinished(govuk(double, timeout=1, workers=2), messages(10))
    assert time.monotonic() - began < 1
    assert type(raised) is OutcomeUnknown
    assert sorted(raised.accepted) == sorted(reference(line) for line in range(1, 10))


def test_no_post_is_begun_after_the_deadline_and_held_threads_take_nothing_from_the_next_call(
    double: GovukNotifyDouble,
) -> None:
    double.post_faults["*"] = [Fault("dribble")] * 2
    provider = govuk(double, timeout=0.5, workers=2)
    raised = unfinished(provider, messages(10))
    assert type(raised) is OutcomeUnknown
    assert raised.accepted == ()
    assert provider.send("c2", [message(50), message(51)], NOW) == Answer()
    double.released.set()
    time.sleep(0.3)
    assert sum(double.posts.values()) == 4


def test_what_there_was_no_time_for_was_not_taken(double: GovukNotifyDouble) -> None:
    clock = Clock()

    def third_takes_long(posted: str, _before: int) -> None:
        if posted == reference(2):
            clock.steady += 60

    double.chance = third_takes_long
    account = GovukNotifyAccount(API_KEY, SMS_TEMPLATE, base_url=double.url)
    raised = unfinished(GovukNotify(account, workers=1, steady=lambda: clock.steady), messages(10))
    assert type(raised) is NotTaken
    assert "the time was over" in str(raised)
    assert raised.accepted == tuple(reference(line) for line in range(3))
    assert len(double.posts) == 3


def test_who_is_connected_only_after_the_deadline_posts_nothing(
    double: GovukNotifyDouble, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = socket.getaddrinfo

    def slow(*arguments: Any, **named: Any) -> Any:
        time.sleep(0.5)
        return plain(*arguments, **named)

    provider = govuk(double, timeout=0.3, workers=1)
    provider.send("c0", [message(5)], NOW)
    provider.close()
    monkeypatch.setattr(socket, "getaddrinfo", slow)
    raised = unfinished(provider, messages(1))
    assert type(raised) is OutcomeUnknown
    time.sleep(0.5)
    assert double.connections == 2
    assert double.posts == {reference(5): 1}


def test_a_closed_gate_counts_as_never_written(double: GovukNotifyDouble) -> None:
    gated = GatedClient.make(API_KEY, double.url, seconds_since_boot)
    with pytest.raises(HTTPError) as raised:
        gated.client.get_all_notifications(reference="r")
    assert was_never_written(raised.value)
    assert double.look_ups == {}
    gated.gate.closes = seconds_since_boot() + 5
    assert gated.client.get_all_notifications(reference="r")["notifications"] == []
    gated.close()


def test_who_sleeps_past_the_deadline_right_before_a_write_posts_nothing_on_a_kept_connection(
    double: GovukNotifyDouble, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that was stopped past its lease, in the midst of a post: another has taken its chunk over meanwhile."""
    clock = Clock()
    gated = GatedClient.make(API_KEY, double.url, lambda: clock.steady)
    gated.gate.closes = clock.steady + 5
    assert gated.client.get_all_notifications(reference="r")["notifications"] == []

    def sleep_then_sign(*arguments: Any) -> str:
        clock.sleep(10)
        return create_jwt_token(*arguments)

    monkeypatch.setattr("notifications_python_client.base.create_jwt_token", sleep_then_sign)
    with pytest.raises(HTTPError) as raised:
        gated.client.send_sms_notification(mobile(1), SMS_TEMPLATE, {"body": "Hello"}, reference(1), None)
    assert was_never_written(raised.value)
    assert double.posts == {}
    gated.close()


def test_who_sleeps_past_the_deadline_between_head_and_body_posts_no_body_and_knows_nothing(
    double: GovukNotifyDouble, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    gated = GatedClient.make(API_KEY, double.url, lambda: clock.steady)
    gated.gate.closes = clock.steady + 5
    assert gated.client.get_all_notifications(reference="r")["notifications"] == []
    plain = HTTPConnection.endheaders

    def sleep_after_the_head(*arguments: Any, **named: Any) -> None:
        plain(*arguments, **named)
        clock.sleep(10)

    monkeypatch.setattr(HTTPConnection, "endheaders", sleep_after_the_head)
    with pytest.raises(HTTPError) as raised:
        gated.client.send_sms_notification(mobile(1), SMS_TEMPLATE, {"body": "Hello"}, reference(1), None)
    assert not was_never_written(raised.value)
    assert double.posts == {}
    gated.close()


def test_who_is_halted_after_the_last_look_at_the_clock_writes_what_nobody_takes_any_more(
    double: GovukNotifyDouble, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No check of ours can be the last thing before the write; the request's own date is the other side's check."""
    gated = GatedClient.make(API_KEY, double.url, lambda: 0.0)
    gated.gate.closes = 5
    plain = HTTPConnection.send

    def halted(*arguments: Any) -> None:
        double.clock = lambda: time.time() + (LEASE * govuk(double).limits.timeout).total_seconds()
        plain(*arguments)

    monkeypatch.setattr(HTTPConnection, "send", halted)
    with pytest.raises(HTTPError) as raised:
        gated.client.send_sms_notification(mobile(1), SMS_TEMPLATE, {"body": "Hello"}, reference(1), None)
    assert raised.value.status_code == 403
    assert double.posts == {}
    gated.close()


# Mixtures: what is in neither list must be as the exception says


AUTH = denial(403, "AuthError")
RATE = denial(429, "RateLimitError")
BAD = denial(400, "BadRequestError")


@pytest.mark.parametrize(
    ("faults", "kind", "accepted", "refused", "pause"),
    [
        ([None, BAD, Fault("drop"), None], OutcomeUnknown, [0, 3], [1], 0),
        ([BAD, Fault("drop"), RATE, None], OutcomeUnknown, [], [0], 1),
        ([None, Fault("drop"), AUTH, None], OutcomeUnknown, [0], [], 0),
        ([None, BAD, RATE, None], NotTaken, [0], [1], 1),
        ([None, BAD, AUTH, None], ProviderStopped, [0], [1], 0),
        ([BAD, None, denial(429, "TooManyRequestsError"), Fault("drop")], ProviderStopped, [1], [0], 0),
    ],
)
def test_mixtures_in_order(
    double: GovukNotifyDouble,
    faults: Sequence[Fault | None],
    kind: type[Unfinished],
    accepted: list[int],
    refused: list[int],
    pause: int,
) -> None:
    double.post_faults = {reference(line): [fault] for line, fault in enumerate(faults) if fault}
    raised = unfinished(govuk(double, workers=1), messages(4))
    assert type(raised) is kind
    assert raised.accepted == tuple(reference(line) for line in accepted)
    assert [(one.reference, one.failure_code) for one in raised.refused] == [
        (reference(line), "BadRequestError") for line in refused
    ]
    assert raised.retry_after == pause * MINUTE


def test_a_quota_and_a_stop_together_are_a_stop(double: GovukNotifyDouble) -> None:
    double.post_faults = {reference(0): [denial(429, "RateLimitError", delay=0.1)]}
    double.post_faults[reference(1)] = [denial(403, "AuthError", delay=0.1)]
    raised = unfinished(govuk(double, workers=2), messages(4))
    assert type(raised) is ProviderStopped
    assert raised.retry_after == MINUTE
    assert sum(double.posts.values()) == 2


@pytest.mark.parametrize("seed", range(25))
def test_what_it_says_is_true_of_every_message(double: GovukNotifyDouble, seed: int) -> None:
    drawn = random.Random(seed)
    kinds = [BAD, BAD, RATE, AUTH, Fault("drop"), Fault("drop", takes=False), Fault("not json"), denial(500, "Error")]
    double.post_faults = {reference(line): [drawn.choice(kinds)] for line in range(20) if drawn.random() < 0.2}
    answer = outcome(govuk(double, workers=drawn.randint(1, 5)), messages(20))
    taken = double.counts()
    refused = {one.reference for one in answer.refused}
    everything = {reference(line) for line in range(20)}
    accepted = everything - refused if isinstance(answer, Answer) else set(answer.accepted)
    rest = everything - refused - accepted
    assert set(taken.values()) <= {1}
    assert set(double.posts.values()) <= {1}
    assert accepted <= set(taken)
    assert not refused & (set(taken) | accepted)
    if not isinstance(answer, OutcomeUnknown):
        assert not rest & set(taken)


# Asked


def test_it_is_asked_for_each_reference(double: GovukNotifyDouble) -> None:
    provider = govuk(double)
    provider.send("c1", messages(3), NOW)
    provider.send("c2", messages(1), NOW)
    assert double.counts()[reference(0)] == 2, "a reference isn't idempotent"
    assert provider.held([reference(0), reference(2), reference(7), "é&a=b#/ ?"]) == {reference(0), reference(2)}
    assert provider.held([]) == set()


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        (AUTH, ProviderStopped),
        (RATE, OutcomeUnknown),
        (denial(500, "Error"), OutcomeUnknown),
        (BAD, OutcomeUnknown),
        (denial(404, "NoResultFound"), OutcomeUnknown),
        (Fault("drop"), OutcomeUnknown),
        (Fault("not json"), OutcomeUnknown),
        (Fault("list"), OutcomeUnknown),
        (Fault("hang"), OutcomeUnknown),
        (Fault("dribble"), OutcomeUnknown),
        (Fault(body=b'{"notifications": null}'), OutcomeUnknown),
        (Fault(body=b'{"notifications": [{}]}'), OutcomeUnknown),
    ],
    ids=repr,
)
def test_what_it_cannot_be_told_of_all_it_does_not_say(
    double: GovukNotifyDouble, fault: Fault, kind: type[Unfinished]
) -> None:
    provider = govuk(double, timeout=0.8, workers=1)
    provider.send("c1", messages(2), NOW)
    double.look_up_faults[reference(1)] = [fault]
    began = time.monotonic()
    with pytest.raises(Unfinished) as raised:
        provider.held([reference(0), reference(1)])
    assert time.monotonic() - began < 0.8
    assert type(raised.value) is kind
    assert raised.value.accepted == (reference(0),)
    assert raised.value.retry_after == (MINUTE if fault is RATE else 0 * MINUTE)


def test_where_nobody_listens_it_cannot_be_told(double: GovukNotifyDouble) -> None:
    provider = govuk(double)
    double.pause_listening()
    with pytest.raises(OutcomeUnknown):
        provider.held([reference(0)])


# What can't be


def test_a_channel_it_does_not_have_stops_before_anything_is_posted(double: GovukNotifyDouble) -> None:
    for provider, posted, says in [
        (govuk(double), message(1, "nhs_app"), "sends no nhs_app"),
        (govuk(double, email_template_id=None), message(1, "email"), "email_template_id is missing"),
    ]:
        raised = unfinished(provider, [message(0), posted])
        assert type(raised) is ProviderStopped
        assert says in str(raised)
    assert double.posts == {}


def test_a_chunk_over_the_limit_is_a_fault(double: GovukNotifyDouble) -> None:
    with pytest.raises(ValueError, match="at most 100"):
        govuk(double).send("c1", messages(101), NOW)


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("api_key", ""),
        ("api_key", API_KEY[:-1]),
        ("base_url", "http://api.notifications.service.gov.uk"),
        ("base_url", "api.notifications.service.gov.uk"),
        ("base_url", "https://"),
        ("base_url", "https://gateway.example.test:port"),
        ("base_url", "https://[::1"),
        ("base_url", "https://gateway.example.test/notify"),
        ("base_url", "https://gateway.example.test?x=1"),
        ("base_url", "https://somebody@gateway.example.test"),
        ("sms_template_id", "flu"),
        ("email_template_id", ""),
        ("sms_sender_id", f"{SENDER} "),
        ("email_reply_to_id", "a@example.test"),
    ],
)
def test_settings_that_cannot_be_are_refused_by_name(setting: str, value: str) -> None:
    with pytest.raises(Refused, match=f"govuk_notify.{setting}") as refused:
        GovukNotifyAccount(**({"api_key": API_KEY} | {setting: value}))
    assert SECRET[:20] not in str(refused.value)


# In the hands of the dispatcher


def given_sms(folder: Path) -> World:
    return World(folder, recipients=lines(50, provider="govuk_notify"))


def wrong_template(double: GovukNotifyDouble) -> None:
    double.templates[SMS_TEMPLATE] = Template("sms", "Dear ((name)), ((body))")


def wrong_key(double: GovukNotifyDouble) -> None:
    double.guests = {"07700900123"}


def nothing_known(double: GovukNotifyDouble) -> None:
    double.chance = lambda _reference, _before: BAD


@pytest.mark.parametrize("goes_wrong", [wrong_template, wrong_key, nothing_known])
def test_what_is_wrong_with_us_stops_the_run_and_after_the_mend_everybody_is_sent_to_once(
    tmp_path: Path, double: GovukNotifyDouble, goes_wrong: Callable[[GovukNotifyDouble], None]
) -> None:
    world = given_sms(tmp_path)
    good, provider = dict(double.templates), govuk(double)
    goes_wrong(double)
    done = world.dispatch(world.ledger, provider)
    assert (done.accepted, done.refused, done.unsent) == (0, 0, 50)
    assert "govuk_notify" in done.stopped["sms"]
    double.templates, double.guests = good, None
    double.chance = lambda _reference, _before: None
    assert world.dispatch(world.ledger, provider).accepted == 50
    assert double.counts() == dict.fromkeys(world.references(), 1)


@pytest.mark.parametrize("fault", [denial(400, "ValidationError", message="phone_number Not enough digits"), None])
def test_one_odd_recipient_fails_alone(tmp_path: Path, double: GovukNotifyDouble, fault: Fault | None) -> None:
    world = given_sms(tmp_path)
    odd = world.references()[25]
    double.post_faults[odd] = [fault or BAD]
    done = world.dispatch(world.ledger, govuk(double))
    assert (done.accepted, done.refused, done.stopped) == (49, 1, {})
    assert odd not in double.counts()
