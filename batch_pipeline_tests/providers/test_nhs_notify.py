import asyncio
import json
import signal
import socket
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Protocol

import pytest

from batch_pipeline.errors import Refused
from batch_pipeline.providers.nhs_notify import MOST_BYTES, NhsNotify
from batch_pipeline.providers.nhs_notify_account import NhsNotifyAccount
from batch_pipeline.providers.nhs_notify_app_accounts import AccountsNotFetched, NhsAppAccounts
from batch_pipeline.providers.protocol import (
    Answer,
    Channel,
    ChunkRefused,
    ChunkTooLarge,
    NotTaken,
    OutcomeUnknown,
    OutgoingMessage,
    ProviderStopped,
    Recovery,
    RefusedMessage,
)
from batch_pipeline.sending import dispatcher
from batch_pipeline_tests.ledger.given import (
    BATCH,
    NOW,
    attempt_rows,
    lines,
    nhs_number,
    open_ledger,
    queue,
    set_attempts,
)
from batch_pipeline_tests.providers.nhs_notify_double import (
    API_KEY,
    Endpoint,
    Fault,
    NhsNotifyDouble,
    Reply,
    another_private_key,
    errors,
    private_key,
)
from batch_pipeline_tests.sending.worlds import providers

SECOND = timedelta(seconds=1)
ROWS = "/data/attributes/messages"
SAME_BATCH = ("CM_DUPLICATE_REQUEST", "/data/attributes/messageBatchReference")


@pytest.fixture
def double() -> Iterator[NhsNotifyDouble]:
    with NhsNotifyDouble() as started:
        yield started
    assert started.failures == []


class Connect(Protocol):
    """Makes a provider that is closed after the test."""

    def __call__(self, account: NhsNotifyAccount, *, timeout: timedelta = 5 * SECOND, **clocks: Any) -> NhsNotify: ...


@pytest.fixture
def connect() -> Iterator[Connect]:
    with ExitStack() as after:

        def make(account: NhsNotifyAccount, *, timeout: timedelta = 5 * SECOND, **clocks: Any) -> NhsNotify:
            made = NhsNotify(account, timeout=timeout, **clocks)
            after.callback(made.close)
            return made

        yield make


@pytest.fixture
def notify(double: NhsNotifyDouble, connect: Connect) -> NhsNotify:
    return connect(double.account())


def message(line: int, channel: Channel = "sms", text: str = "Hello") -> OutgoingMessage:
    address = {"sms": f"+447700900{line % 1000:03d}", "email": f"p{line}@example.test", "nhs_app": nhs_number(line)}
    subject = "Your flu jab" if channel == "email" else None
    return OutgoingMessage(f"flu:{line}:primary", channel, nhs_number(line), address[channel], text, subject)


def messages(count: int, channel: Channel = "sms") -> list[OutgoingMessage]:
    return [message(line, channel) for line in range(count)]


def send(notify: NhsNotify, count: int = 3, chunk: str = "flu/primary/sms/0001-ab") -> Answer:
    return notify.send(chunk, messages(count), NOW)


# What is said of it


def test_it_says_what_it_is(notify: NhsNotify) -> None:
    limits = notify.limits
    assert (notify.name, notify.recovery) == ("nhs_notify", Recovery.DEDUPLICATES)
    assert (limits.messages, limits.per_minute, limits.one_by_one) == (45_000, 1_200, False)
    assert limits.bytes is not None
    assert MOST_BYTES - 2_000 < limits.bytes < MOST_BYTES == 5_200_000
    assert limits.remembers is not None
    assert timedelta(days=200) < limits.remembers < timedelta(days=270)
    assert NhsNotify(NhsNotifyAccount("https://x.test/comms", "k", "1", private_key())).limits.timeout == 30 * SECOND


def test_the_rate_is_the_applications(double: NhsNotifyDouble, connect: Connect) -> None:
    one, same, other = (
        connect(double.account(**changes)).limits.account
        for changes in ({}, {"ods_code": None}, {"api_key": "another"})
    )
    assert one == same != other
    assert API_KEY not in one


def test_it_cannot_be_asked(notify: NhsNotify) -> None:
    with pytest.raises(ProviderStopped, match="can't be asked"):
        notify.held(["flu:1:primary"])


def test_its_repr_shows_no_secret(notify: NhsNotify, double: NhsNotifyDouble) -> None:
    for shown in (repr(notify), repr(double.account()), str(double.account())):
        assert API_KEY not in shown
        assert "PRIVATE" not in shown
        assert double.host in shown


@pytest.mark.parametrize("channel", ["sms", "email", "nhs_app"])
def test_as_many_bytes_as_the_envelope_says_are_enough(
    double: NhsNotifyDouble, notify: NhsNotify, channel: Channel
) -> None:
    sent = messages(50, channel)
    notify.send("flu-2026-10-a-long-name-of-a-batch/primary/nhs_app/0001-abcdef01", sent, NOW)
    texts = sum(len(part) for each in sent for part in (each.text, each.subject or "", each.address))
    assert len(double.bodies[0]) <= texts + 50 * notify.limits.envelope + 1_000
    assert notify.limits.envelope < 500


# What is sent


def written(double: NhsNotifyDouble) -> dict[str, Any]:
    return json.loads(double.bodies[-1])["data"]["attributes"]


CHANNELS: list[tuple[Channel, str, dict[str, str], dict[str, str] | None]] = [
    ("nhs_app", "1", {"body": "Hello"}, None),
    ("email", "2", {"email_subject": "Your flu jab", "email_body": "Hello"}, {"email": "p7@example.test"}),
    ("sms", "3", {"sms_body": "Hello"}, {"sms": "+447700900007"}),
]


@pytest.mark.parametrize(("channel", "plan", "texts", "contact"), CHANNELS)
def test_a_batch_says_this_and_nothing_else(
    double: NhsNotifyDouble,
    notify: NhsNotify,
    channel: Channel,
    plan: str,
    texts: dict[str, str],
    contact: dict[str, str] | None,
) -> None:
    assert notify.send("flu/primary/0001", [message(7, channel)], NOW) == Answer()
    recipient: dict[str, Any] = {"nhsNumber": nhs_number(7)}
    if contact is not None:
        recipient["contactDetails"] = contact
    assert written(double) == {
        "routingPlanId": f"00000000-0000-0000-0000-00000000000{plan}",
        "messageBatchReference": "flu/primary/0001",
        "messages": [
            {
                "messageReference": "flu:7:primary",
                "recipient": recipient,
                "originator": {"odsCode": "A28095"},
                "personalisation": texts,
            }
        ],
    }
    assert [taken.channel for taken in double.journal] == [channel]


def test_contact_details_and_originator_go_only_where_they_are_agreed(connect: Connect) -> None:
    with NhsNotifyDouble(contact_details=False, originator=False) as double:
        notify = connect(double.account(billing_reference="B1"))
        notify.send("c1", [message(7)], NOW)
        notify.close()
        (only,) = written(double)["messages"]
        assert set(only) == {"messageReference", "recipient", "billingReference", "personalisation"}
        assert (set(only["recipient"]), only["billingReference"]) == ({"nhsNumber"}, "B1")
        assert double.failures == []


def test_a_plan_of_ones_own_takes_the_place_of_the_free_text_one(double: NhsNotifyDouble, connect: Connect) -> None:
    notify = connect(double.account(routing_plans={"sms": "b838b13c-f98c-4def-93f0-515d4e4f4ee1"}))
    with pytest.raises(ProviderStopped, match=r"404 \(CM_NO_SUCH_ROUTING_PLAN\)"):
        send(notify)
    assert notify.send("c2", messages(1, "email"), NOW) == Answer()


def test_texts_go_as_utf_8(double: NhsNotifyDouble, notify: NhsNotify) -> None:
    notify.send("c1", [message(7, text="Clàr-ama “flu” 💉\n{{ first_name }}")], NOW)
    assert "Clàr-ama".encode() in double.bodies[0]
    assert written(double)["messages"][0]["personalisation"] == {"sms_body": "Clàr-ama “flu” 💉\n{{ first_name }}"}


def test_too_much_for_one_call_is_never_posted(double: NhsNotifyDouble, notify: NhsNotify) -> None:
    with pytest.raises(ChunkTooLarge):
        notify.send("c1", [message(line, text="x" * 80_000) for line in range(65)], NOW)
    with pytest.raises(ChunkTooLarge):
        notify.send("c1", messages(1) * 45_001, NOW)
    assert double.asked["batches"] == 0


def test_the_most_that_fits_goes_in_one_call(double: NhsNotifyDouble, notify: NhsNotify) -> None:
    sent = [message(line, text="x" * 79_000) for line in range(65)]
    assert notify.send("c1", sent, NOW) == Answer()
    assert MOST_BYTES * 0.98 < len(double.bodies[0]) <= MOST_BYTES


@pytest.mark.parametrize("mixed", [[], [message(1), message(2, "email")]])
def test_a_batch_of_no_channel_or_two_is_a_fault_of_ours(notify: NhsNotify, mixed: list[OutgoingMessage]) -> None:
    with pytest.raises(ValueError, match="one channel"):
        notify.send("c1", mixed, NOW)


# What it answers


def test_a_batch_is_taken_once_however_often_it_is_posted(double: NhsNotifyDouble, notify: NhsNotify) -> None:
    for _ in range(3):
        assert send(notify) == Answer()
    assert set(double.times().values()) == {1}
    assert len(double.bodies) == 3


def test_a_batch_that_a_gateway_delivers_twice_is_accepted(double: NhsNotifyDouble, notify: NhsNotify) -> None:
    double.plan("batches", Fault(repeat=True))
    assert send(notify) == Answer()
    assert set(double.times().values()) == {1}


def without_a_message(body: Any) -> Any:
    body["data"]["attributes"]["messages"].pop()
    return body


def with_another_message(body: Any) -> Any:
    body["data"]["attributes"]["messages"][0]["messageReference"] = "flu:9:primary"
    return body


def with_a_message_twice(body: Any) -> Any:
    body["data"]["attributes"]["messages"].append(body["data"]["attributes"]["messages"][0])
    return body


def of_another_batch(body: Any) -> Any:
    body["data"]["attributes"]["messageBatchReference"] = "another"
    return body


def of_another_type(body: Any) -> Any:
    body["data"]["type"] = "Message"
    return body


@pytest.mark.parametrize(
    "alter",
    [without_a_message, with_another_message, with_a_message_twice, of_another_batch, of_another_type, lambda _: None],
)
def test_a_201_that_is_not_of_our_batch_leaves_the_outcome_unknown(
    double: NhsNotifyDouble, notify: NhsNotify, alter: Any
) -> None:
    double.plan("batches", Fault(alter=alter))
    with pytest.raises(OutcomeUnknown, match="201"):
        send(notify)
    assert send(notify) == Answer()


REFUSALS: list[tuple[Reply, dict[int, str]]] = [
    (errors(400, ("CM_INVALID_NHS_NUMBER", f"{ROWS}/1/recipient/nhsNumber")), {1: "CM_INVALID_NHS_NUMBER"}),
    (errors(400, ("CM_MISSING_VALUE", f"{ROWS}/2")), {2: "CM_MISSING_VALUE"}),
    (  # several of one row: the first
        errors(400, ("CM_DUPLICATE_VALUE", f"{ROWS}/2/messageReference"), ("CM_INVALID_VALUE", f"{ROWS}/2/recipient")),
        {2: "CM_DUPLICATE_VALUE"},
    ),
    (
        errors(400, ("CM_INVALID_VALUE", f"{ROWS}/2/a"), ("CM_MISSING_VALUE", f"{ROWS}/0/b")),
        {0: "CM_MISSING_VALUE", 2: "CM_INVALID_VALUE"},
    ),
    (  # beside one of the whole batch, which is told the next time, if it still holds
        errors(400, ("CM_TOO_FEW_ITEMS", ROWS), ("CM_INVALID_VALUE", f"{ROWS}/0/b")),
        {0: "CM_INVALID_VALUE"},
    ),
    (errors(400, ("what? 9990000018", f"{ROWS}/0/b")), {0: "CM_UNKNOWN"}),
]


@pytest.mark.parametrize(("reply", "rows"), REFUSALS)
def test_a_400_refuses_the_rows_that_it_points_at(
    double: NhsNotifyDouble, notify: NhsNotify, reply: Reply, rows: dict[int, str]
) -> None:
    double.plan("batches", Fault(answer=reply))
    with pytest.raises(ChunkRefused) as refusal:
        send(notify)
    assert refusal.value.refused == [RefusedMessage(f"flu:{row}:primary", code) for row, code in rows.items()]


def test_real_faults_of_rows_are_pointed_at(double: NhsNotifyDouble, notify: NhsNotify) -> None:
    bad = [message(0), OutgoingMessage("flu:1:primary", "sms", "9990000019", "+447700900001", "Hi", None), message(2)]
    with pytest.raises(ChunkRefused) as refusal:
        notify.send("c1", bad, NOW)
    assert refusal.value.refused == [RefusedMessage("flu:1:primary", "CM_INVALID_NHS_NUMBER")]
    assert notify.send("c2", [bad[0], bad[2]], NOW) == Answer()
    assert double.times() == {"flu:0:primary": 1, "flu:2:primary": 1}


STOPS: list[tuple[Reply, str]] = [
    (errors(400, ("CM_TOO_FEW_ITEMS", ROWS)), r"400 \(CM_TOO_FEW_ITEMS\)"),
    (errors(400, ("CM_INVALID_VALUE", f"{ROWS}/3")), "CM_INVALID_VALUE"),  # there is no row 3
    (errors(400, ("CM_INVALID_VALUE", f"{ROWS}/x")), "CM_INVALID_VALUE"),
    (errors(400, ("CM_INVALID_VALUE", f"{ROWS}/-1/recipient")), "CM_INVALID_VALUE"),
    (errors(400, "CM_MISSING_HEADER"), "CM_MISSING_HEADER"),
    (Reply(400, b"<html>"), r"400 \(without a code\)"),
    (Reply(400, {"errors": []}), "400"),
    # What holds of the account would fail the whole cohort, row by row.
    (errors(400, ("CM_CANNOT_SET_CONTACT_DETAILS", f"{ROWS}/0/recipient/contactDetails")), "contact_details"),
    (errors(400, ("CM_CANNOT_SET_ORIGINATOR", f"{ROWS}/0/originator")), "CM_CANNOT_SET_ORIGINATOR"),
    (errors(400, ("CM_ODS_CODE_REQUIRED", f"{ROWS}/1/originator")), "ods_code"),
    (errors(400, ("CM_INVALID_VALUE", f"{ROWS}/1/originator/odsCode")), "sends_ods_code"),
    (errors(400, ("CM_INVALID_VALUE", f"{ROWS}/1/billingReference")), "billing_reference"),
    (  # beside a row of its own
        errors(
            400, ("CM_INVALID_VALUE", f"{ROWS}/1/recipient"), ("CM_INVALID_VALUE", "/data/attributes/routingPlanId")
        ),
        "routing_plans",
    ),
    (errors(401, "CM_DENIED"), "401.*CM_DENIED"),
    (errors(403, "CM_FORBIDDEN"), "403.*CM_FORBIDDEN"),
    (errors(403, "CM_SERVICE_BAN"), "CM_SERVICE_BAN"),
    (errors(404, ("CM_NO_SUCH_ROUTING_PLAN", "/data/attributes/routingPlanId")), "404.*CM_NO_SUCH_ROUTING_PLAN"),
    (Reply(404, b"no such page"), "404"),
    (errors(422, ("CM_DUPLICATE_REQUEST", f"{ROWS}/0/messageReference")), "422.*CM_DUPLICATE_REQUEST"),
    (errors(422, "CM_DUPLICATE_REQUEST"), "422"),
    (errors(422, ("CM_INVALID_VALUE", "/data/attributes/messageBatchReference")), "422.*CM_INVALID_VALUE"),
    (errors(500, "CM_MISSING_ROUTING_PLAN_TEMPLATE"), "500.*CM_MISSING_ROUTING_PLAN_TEMPLATE"),
    (errors(500, "CM_ROUTING_PLAN_DUPLICATE_TEMPLATES"), "templates"),
]


@pytest.mark.parametrize(("reply", "reason"), STOPS)
def test_these_answers_stop_the_run(double: NhsNotifyDouble, notify: NhsNotify, reply: Reply, reason: str) -> None:
    double.plan("batches", Fault(answer=reply), Fault(answer=reply))
    with pytest.raises(ProviderStopped, match=reason) as stop:
        send(notify)
    assert "9990000018" not in str(stop.value)
    assert double.asked["batches"] == (2 if reply.status in {401, 403} else 1)


def rows(numbers: Iterable[int], code: str = "CM_INVALID_VALUE", field: str = "recipient/contactDetails/sms") -> Any:
    return errors(400, *((code, f"{ROWS}/{number}/{field}") for number in numbers))


OF_ALL: list[tuple[Reply, int]] = [
    (rows(range(4)), 4),
    (rows(range(50), field="personalisation"), 50),
    (rows(range(100)), 1_000),
    (rows(range(0, 200, 2)), 1_000),  # every second: half of the patients
    (rows(range(100)), 100),
]
NOT_OF_ALL: list[tuple[Reply, int]] = [
    (rows(range(1)), 1),  # each message there is, and yet by chance
    (rows(range(3)), 3),
    (rows(range(4)), 5),
    (rows(range(99)), 1_000),
    (rows(range(0, 1_000, 10)), 1_000),  # a hundred bad numbers among a thousand
    (errors(400, *(("CM_INVALID_VALUE", f"{ROWS}/{row}/{'ab'[row % 2]}") for row in range(100))), 1_000),
    (errors(400, *(("CM_" + "AB"[row % 2], f"{ROWS}/{row}/a") for row in range(4))), 4),
    (errors(400, *(("CM_INVALID_VALUE", f"{ROWS}/0/a"),) * 4), 4),  # four times the same row
]


@pytest.mark.parametrize(("reply", "count"), OF_ALL)
def test_the_same_fault_of_every_message_is_not_the_messages(
    double: NhsNotifyDouble, notify: NhsNotify, reply: Reply, count: int
) -> None:
    double.plan("batches", Fault(answer=reply))
    with pytest.raises(ProviderStopped, match=r"400 \(CM_INVALID_VALUE\): check nhs_notify\."):
        send(notify, count)


@pytest.mark.parametrize(("reply", "count"), NOT_OF_ALL)
def test_faults_of_some_are_theirs(double: NhsNotifyDouble, notify: NhsNotify, reply: Reply, count: int) -> None:
    double.plan("batches", Fault(answer=reply))
    with pytest.raises(ChunkRefused) as refusal:
        send(notify, count)
    assert len(refusal.value.refused) == len(
        {error["source"]["pointer"].split("/")[4] for error in reply.body["errors"]}
    )


def test_a_duplicate_batch_was_accepted_before(double: NhsNotifyDouble, notify: NhsNotify) -> None:
    double.plan("batches", Fault(answer=errors(422, SAME_BATCH)))
    assert send(notify) == Answer()


UNKNOWN: list[tuple[Reply, float]] = [
    (errors(408, "CM_TIMEOUT"), 0),
    (errors(425, "CM_RETRY_TOO_EARLY", Retry_After="300"), 300),
    (errors(425, "CM_RETRY_TOO_EARLY", Retry_After="7"), 7),
    (errors(425, "CM_RETRY_TOO_EARLY"), 300),
    (errors(500, "CM_INTERNAL_SERVER_ERROR"), 0),
    (Reply(502, b"<html>Bad gateway</html>"), 0),
    (errors(503, "CM_SERVICE_UNAVAILABLE", Retry_After="9"), 9),
    (errors(504, "CM_TIMEOUT", Retry_After="Thu, 01 Oct 2026 09:00:20 GMT"), 20),
    (Reply(200, {}), 0),
    (Reply(202, {}), 0),
    (Reply(302, {}, {"Location": "https://example.test/"}), 0),
    (Reply(405, {}), 0),
    (Reply(418, b""), 0),
    (Reply(201, b""), 0),
    (Reply(201, b'{"data": {"type": "MessageBatch"'), 0),
    # It may mean that the batch was accepted before.
    (Reply(422, b"<html>"), 0),
    (errors(422, SAME_BATCH, "CM_INVALID_VALUE"), 0),
]


@pytest.mark.parametrize(("reply", "after"), UNKNOWN)
def test_these_answers_leave_the_outcome_unknown(
    double: NhsNotifyDouble, reply: Reply, after: float, connect: Connect
) -> None:
    notify = connect(double.account(), wall=lambda: NOW)
    token_lives_now(double)
    double.plan("batches", Fault(answer=reply))
    with pytest.raises(OutcomeUnknown) as unknown:
        send(notify)
    assert unknown.value.retry_after == after * SECOND


def token_lives_now(double: NhsNotifyDouble) -> None:
    """A double that takes any assertion: the test's clock isn't the machine's."""
    double.plan("token", Fault(answer=Reply(200, {"access_token": "t", "expires_in": "599"})))
    double._tokens["t"] = time.monotonic() + 60


@pytest.mark.parametrize(
    ("given", "after"),
    [
        (None, 60),
        ("60", 60),
        ("0", 0),
        ("5", 5),
        (" 5 ", 5),
        ("99999999", 86_400),
        ("Thu, 01 Oct 2026 09:01:05 GMT", 65),
        ("Thu, 01 Oct 2026 08:00:00 GMT", 0),
        ("Thu, 01 Oct 2099 08:00:00 -0000", 86_400),
        ("-5", 60),
        ("soon", 60),
        ("1.5", 60),
        ("٣", 60),
    ],
)
def test_a_quota_says_how_long_to_wait(
    double: NhsNotifyDouble, given: str | None, after: float, connect: Connect
) -> None:
    notify = connect(double.account(), wall=lambda: NOW)
    token_lives_now(double)
    headers = {} if given is None else {"Retry_After": given}
    double.plan("batches", Fault(answer=errors(429, "CM_QUOTA", **headers)))
    with pytest.raises(NotTaken, match="CM_QUOTA") as quota:
        send(notify)
    assert quota.value.retry_after == after * SECOND


@pytest.mark.parametrize("code", ["CM_TOO_MANY_ITEMS", "CM_TOO_LARGE"])
def test_a_413_is_to_be_split(double: NhsNotifyDouble, notify: NhsNotify, code: str) -> None:
    double.plan("batches", Fault(answer=errors(413, code)))
    with pytest.raises(ChunkTooLarge):
        send(notify)


# A network that fails


@pytest.mark.parametrize(("drop", "taken"), [("before", 0), ("after", 3)])
def test_a_dropped_answer_leaves_the_outcome_unknown(
    double: NhsNotifyDouble, notify: NhsNotify, drop: Any, taken: int
) -> None:
    double.plan("batches", Fault(drop=drop))
    with pytest.raises(OutcomeUnknown):
        send(notify)
    assert len(double.journal) == taken
    assert send(notify) == Answer()
    assert set(double.times().values()) == {1}


def unused_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


@pytest.mark.parametrize(
    "base",
    [
        "http://127.0.0.1:{unused}/comms",  # nobody there
        "https://nobody.invalid/comms",  # no such name
        "https://127.0.0.1:{port}/comms",  # no TLS there
    ],
)
def test_what_was_not_written_was_not_taken(double: NhsNotifyDouble, base: str, connect: Connect) -> None:
    where = base.format(unused=unused_port(), port=double.host.rpartition(":")[2])
    account = double.account(base_url=where, token_url=f"{double.host}/oauth2/token")
    notify = connect(account)
    with pytest.raises(NotTaken, match="ConnectError"):
        send(notify)
    assert double.asked == {"token": 1}


def elapsed(notify: NhsNotify, count: int = 3, text: str = "Hello") -> tuple[float, BaseException]:
    started = time.monotonic()
    with pytest.raises((OutcomeUnknown, NotTaken)) as raised:
        notify.send("c1", [message(line, text=text) for line in range(count)], NOW)
    return time.monotonic() - started, raised.value


@pytest.mark.parametrize(
    "fault", [Fault(dribble="headers"), Fault(dribble="body"), Fault(delay=5), Fault(deaf=True)], ids=str
)
def test_a_call_ends_in_time_however_slow_the_other_side_is(
    double: NhsNotifyDouble, fault: Fault, connect: Connect
) -> None:
    notify = connect(double.account(), timeout=0.4 * SECOND)
    double.plan("batches", fault)
    took, raised = elapsed(notify)
    assert isinstance(raised, OutcomeUnknown)
    assert 0.3 < took < 0.8


def test_a_call_ends_in_time_when_nobody_reads_what_it_writes(double: NhsNotifyDouble, connect: Connect) -> None:
    notify = connect(double.account(), timeout=1.5 * SECOND)  # a busy machine takes a while to get as far as writing
    double.plan("batches", Fault(deaf=True))
    took, raised = elapsed(notify, 60, "x" * 80_000)
    assert isinstance(raised, OutcomeUnknown)
    assert took < 2.5


@pytest.mark.parametrize("fault", [Fault(dribble="headers"), Fault(dribble="body"), Fault(delay=5)], ids=str)
def test_a_call_ends_in_time_when_it_gets_no_token(double: NhsNotifyDouble, fault: Fault, connect: Connect) -> None:
    notify = connect(double.account(), timeout=0.4 * SECOND)
    double.plan("token", fault)
    took, raised = elapsed(notify)
    assert isinstance(raised, NotTaken)
    assert took < 0.8
    assert double.asked["batches"] == 0


def test_a_call_ends_in_time_when_the_connection_is_never_accepted(double: NhsNotifyDouble, connect: Connect) -> None:
    with socket.socket() as silent:  # it takes connections into its queue, and never speaks TLS
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        account = double.account(
            base_url=f"https://127.0.0.1:{silent.getsockname()[1]}/comms", token_url=f"{double.host}/oauth2/token"
        )
        took, raised = elapsed(connect(account, timeout=0.4 * SECOND))
    assert isinstance(raised, NotTaken)
    assert took < 0.8


def test_a_proxy_that_opens_no_tunnel_took_nothing(
    double: NhsNotifyDouble, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as proxy:

        def refuse() -> None:
            caller, _ = proxy.accept()
            with caller:
                assert caller.recv(65_536).startswith(b"CONNECT notify.test:443")
                caller.sendall(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")

        threading.Thread(target=refuse, daemon=True).start()
        monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{proxy.getsockname()[1]}")
        account = double.account(base_url="https://notify.test/comms", token_url=f"{double.host}/oauth2/token")
        with pytest.raises(NotTaken, match="ProxyError"):
            send(connect(account))


class Interrupted(BaseException):
    """As by Ctrl-C."""


def test_an_interrupted_call_does_not_go_on_by_itself(double: NhsNotifyDouble, notify: NhsNotify) -> None:
    def interrupt(*_: object) -> None:
        raise Interrupted

    send(notify)
    double.plan("batches", Fault(delay=5))
    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, 0.2)
    try:
        with pytest.raises(Interrupted):
            send(notify, chunk="c2")
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    give_up = time.monotonic() + 2
    while asyncio.all_tasks(notify._http._loop):
        assert time.monotonic() < give_up
        time.sleep(0.01)


def test_the_calls_before_count_towards_the_time(double: NhsNotifyDouble, connect: Connect) -> None:
    notify = connect(double.account(), timeout=0.6 * SECOND)
    double.plan("token", Fault(delay=0.35))
    double.plan("batches", Fault(delay=0.35))
    took, raised = elapsed(notify)
    assert isinstance(raised, OutcomeUnknown)
    assert took < 1.2


# Tokens


def test_one_token_serves_all_threads(double: NhsNotifyDouble, notify: NhsNotify) -> None:
    double.plan("token", Fault(delay=0.1))
    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(lambda each: notify.send(f"c/{each}", [each], NOW), messages(24)))
    assert answers == [Answer()] * 24
    assert double.asked["token"] == 1
    assert sorted(double.times().values()) == [1] * 24


def test_a_thread_waits_for_anothers_token_no_longer_than_its_time(double: NhsNotifyDouble, connect: Connect) -> None:
    notify = connect(double.account(), timeout=0.4 * SECOND)
    with notify._tokens._lock:  # as another thread holds it that has more time
        took, raised = elapsed(notify)
    assert isinstance(raised, NotTaken)
    assert took < 0.8


def test_a_token_is_renewed_before_its_end_by_one_thread(double: NhsNotifyDouble, connect: Connect) -> None:
    clock = [1_000.0]
    notify = connect(double.account(), steady=lambda: clock[0])
    asked: list[int] = []
    for at in (1_000.0, 1_538.0, 1_540.0, 2_070.0):
        clock[0] = at
        with ThreadPoolExecutor(4) as threads:
            list(threads.map(lambda each, at=at: notify.send(f"c{at}/{each}", [each], NOW), messages(4)))
        asked.append(double.asked["token"])
    assert asked == [1, 1, 2, 2]


def test_a_short_lived_token_is_used_for_half_its_life(double: NhsNotifyDouble, connect: Connect) -> None:
    double.token_seconds = 60
    clock = [0.0]
    notify = connect(double.account(), steady=lambda: clock[0])
    asked: list[int] = []
    for at in (0.0, 29.0, 31.0):
        clock[0] = at
        notify.send(f"c{at}", [message(int(at))], NOW)
        asked.append(double.asked["token"])
    assert asked == [1, 1, 2]


def test_a_refused_token_is_fetched_anew_once(double: NhsNotifyDouble, notify: NhsNotify) -> None:
    send(notify, chunk="c1")
    double.revoke_tokens()
    assert notify.send("c2", [message(9)], NOW) == Answer()
    assert double.asked == {"token": 2, "batches": 3}
    assert set(double.times().values()) == {1}


def test_a_token_that_another_thread_has_renewed_is_kept(double: NhsNotifyDouble, notify: NhsNotify) -> None:
    send(notify, chunk="c1")
    notify._tokens.renounce("an older one")
    notify.send("c2", [message(9)], NOW)
    assert double.asked["token"] == 1


TOKEN_FAULTS: list[tuple[Fault, type[Exception], str]] = [
    (Fault(answer=Reply(400, {"error": "invalid_request"})), ProviderStopped, "invalid_request"),
    (Fault(answer=Reply(401, {"error": "invalid_client", "error_description": "secret"})), ProviderStopped, "invalid_"),
    (Fault(answer=Reply(403, b"<html>")), ProviderStopped, "403 without an error code"),
    (Fault(answer=Reply(400, {"error": "x" * 500})), ProviderStopped, "400 without an error code"),
    (Fault(answer=Reply(429, {}, {"Retry-After": "4"})), NotTaken, "429"),
    (Fault(answer=Reply(500, {})), NotTaken, "500"),
    (Fault(answer=Reply(503, b"")), NotTaken, "503"),
    (Fault(answer=Reply(302, b"")), NotTaken, "302"),
    (Fault(answer=Reply(200, b"<html>")), NotTaken, "something else"),
    (Fault(answer=Reply(200, {"access_token": "a b", "expires_in": "599"})), NotTaken, "something else"),
    (Fault(answer=Reply(200, {"access_token": "a", "expires_in": "soon"})), NotTaken, "something else"),
    (Fault(answer=Reply(200, {"access_token": "a", "expires_in": "0"})), NotTaken, "something else"),
    (Fault(drop="before"), NotTaken, "gave no token"),
    (Fault(drop="after"), NotTaken, "gave no token"),
]


@pytest.mark.parametrize(("fault", "kind", "reason"), TOKEN_FAULTS)
def test_without_a_token_nothing_is_posted(
    double: NhsNotifyDouble, notify: NhsNotify, fault: Fault, kind: type[Exception], reason: str
) -> None:
    double.plan("token", fault)
    with pytest.raises(kind, match=reason) as raised:
        send(notify)
    assert "secret" not in str(raised.value)
    assert double.asked["batches"] == 0
    assert send(notify) == Answer()


@pytest.mark.parametrize(
    "changes",
    [{"private_key": another_private_key()}, {"key_id": "another"}, {"api_key": "another"}],
    ids=["key", "kid", "iss"],
)
def test_the_service_checks_who_we_are(double: NhsNotifyDouble, changes: dict[str, str], connect: Connect) -> None:
    notify = connect(double.account(**changes))
    with pytest.raises(ProviderStopped, match="401 invalid_client"):
        send(notify)


@pytest.mark.parametrize("minutes", [-10, 5])
def test_a_wrong_clock_is_named_among_the_causes(double: NhsNotifyDouble, minutes: int, connect: Connect) -> None:
    wrong = datetime.now(UTC) + timedelta(minutes=minutes)
    with pytest.raises(ProviderStopped, match="this machine's clock"):
        send(connect(double.account(), wall=lambda: wrong))


# The account


@pytest.mark.parametrize(
    ("base", "token"),
    [
        ("https://int.api.service.nhs.uk/comms", "https://int.api.service.nhs.uk/oauth2/token"),
        ("http://127.0.0.1:8080/comms/", "http://127.0.0.1:8080/oauth2/token"),
    ],
)
def test_the_token_endpoint_is_on_the_host(base: str, token: str) -> None:
    account = NhsNotifyAccount(base, "k", "1", "p")
    assert account.token_endpoint == token
    assert account.url("v1/x") == f"{base.rstrip('/')}/v1/x"
    assert NhsNotifyAccount(base, "k", "1", "p", token_url="https://t.test/x").token_endpoint == "https://t.test/x"


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({"base_url": "http://api.service.nhs.uk/comms"}, "base_url must begin with https"),
        ({"base_url": "api.service.nhs.uk"}, "base_url"),
        ({"base_url": "https://user:pass@x.test"}, "base_url"),
        ({"base_url": "https://x.test/comms?a=b"}, "base_url"),
        ({"base_url": "https://[x.test"}, "base_url"),
        ({"base_url": "https://x.test:99999"}, "base_url"),
        ({"token_url": "http://x.test/oauth2/token"}, "token_url"),
        ({"api_key": " "}, "API key"),
        ({"key_id": ""}, "key_id"),
        ({"private_key": ""}, "private key"),
        ({"routing_plans": {"nhs_app": "00000000-0000-0000-0000-000000000006"}}, "two texts"),
        ({"routing_plans": {"nhs_app": "00000000-0000-0000-0000-000000000007"}}, "routing_plans.nhs_app"),
    ],
)
def test_an_account_that_cannot_be_right_is_refused(changes: dict[str, Any], names: str) -> None:
    standard: dict[str, Any] = {"base_url": "https://x.test/comms", "api_key": "k", "key_id": "1", "private_key": "p"}
    with pytest.raises(Refused, match=names) as refusal:
        NhsNotifyAccount(**(standard | changes))
    assert "pass" not in str(refusal.value)


@pytest.mark.parametrize("pem", ["nonsense", "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----"])
def test_a_key_that_is_none_is_refused(pem: str) -> None:
    with pytest.raises(Refused, match="private key") as refusal:
        NhsNotify(NhsNotifyAccount("https://x.test/comms", "k", "1", pem))
    assert "AAAA" not in str(refusal.value)


# A whole dispatch


@pytest.mark.parametrize("fault", ["contact details", "every message"])
def test_what_is_wrong_with_us_stops_the_run_and_after_the_mend_everybody_is_sent_to_once(
    tmp_path: Path, double: NhsNotifyDouble, connect: Connect, fault: str
) -> None:
    ledger, notify = open_ledger(tmp_path), connect(double.account())
    queue(ledger, lines(50, provider="nhs_notify"))

    def dispatch() -> dispatcher.Dispatched:
        return dispatcher.dispatch(ledger, BATCH, providers(notify), now=NOW, owner="a test", sleep=lambda _: None)

    with closing(ledger):
        if fault == "every message":
            double.plan("batches", Fault(answer=rows(range(50))))
        double.contact_details = fault == "every message"
        done = dispatch()
        assert (done.accepted, done.refused, done.unsent) == (0, 0, 50)
        assert "nhs_notify.sends_contact_details" in done.stopped["sms"]
        double.contact_details = True
        assert dispatch().accepted == 50
        assert set(double.times().values()) == {1}


def test_one_odd_recipient_fails_alone(tmp_path: Path, double: NhsNotifyDouble, notify: NhsNotify) -> None:
    ledger = open_ledger(tmp_path)
    queue(ledger, lines(50, provider="nhs_notify"))
    set_attempts(ledger, {"address": "+44770090012"}, line=27)
    with closing(ledger):
        done = dispatcher.dispatch(ledger, BATCH, providers(notify), now=NOW, owner="a test", sleep=lambda _: None)
        assert (done.accepted, done.refused, done.stopped) == (49, 1, {})
        assert attempt_rows(ledger, "failure_code", line=27) == [("CM_INVALID_VALUE",)]
    assert len(double.times()) == 49


# The App's accounts


ACCOUNTS = [(nhs_number(line), line % 2 == 0) for line in range(5)]


@pytest.fixture
def slept() -> list[float]:
    return []


@pytest.fixture
def accounts(double: NhsNotifyDouble, slept: list[float]) -> Iterator[NhsAppAccounts]:
    double.app_accounts["A28095"] = list(ACCOUNTS)
    made = NhsAppAccounts(double.account(), sleep=slept.append)
    yield made
    made.close()


def fetched(accounts: NhsAppAccounts) -> list[Sequence[tuple[str, bool]]]:
    return list(accounts.fetch("A28095"))


def all_fetched(accounts: NhsAppAccounts) -> list[tuple[str, bool]]:
    return [account for page in fetched(accounts) for account in page]


def test_accounts_come_page_by_page(double: NhsNotifyDouble, accounts: NhsAppAccounts) -> None:
    assert fetched(accounts) == [ACCOUNTS[:2], ACCOUNTS[2:4], ACCOUNTS[4:]]
    assert double.asked == {"token": 1, "accounts": 3}


def test_one_page_is_all_there_is(double: NhsNotifyDouble, accounts: NhsAppAccounts) -> None:
    double.page_size = 10
    assert fetched(accounts) == [ACCOUNTS]


@pytest.mark.parametrize(
    ("endpoint", "fault"),
    [
        ("accounts", Fault(answer=errors(429, "CM_QUOTA"))),
        ("accounts", Fault(answer=errors(500, "CM_INTERNAL_SERVER_ERROR"))),
        ("accounts", Fault(answer=Reply(502, b""))),
        ("accounts", Fault(drop="before")),
        ("token", Fault(answer=Reply(503, b""))),
        ("token", Fault(drop="before")),
    ],
)
def test_a_page_is_asked_for_again(
    double: NhsNotifyDouble, accounts: NhsAppAccounts, slept: list[float], endpoint: Endpoint, fault: Fault
) -> None:
    double.plan(endpoint, fault, fault)
    assert all_fetched(accounts) == ACCOUNTS
    assert slept == [2, 4]


def test_a_pause_that_is_asked_for_is_kept(
    double: NhsNotifyDouble, accounts: NhsAppAccounts, slept: list[float]
) -> None:
    double.plan("accounts", Fault(answer=errors(429, "CM_QUOTA", Retry_After="60")))
    assert all_fetched(accounts) == ACCOUNTS
    assert slept == [60]


def test_asking_has_an_end(double: NhsNotifyDouble, accounts: NhsAppAccounts, slept: list[float]) -> None:
    double.plan("accounts", *[Fault(answer=errors(429, "CM_QUOTA"))] * 20)
    with pytest.raises(AccountsNotFetched, match="page 1: NHS Notify answered 429"):
        fetched(accounts)
    assert (double.asked["accounts"], len(slept)) == (6, 5)


def test_all_the_waiting_together_has_an_end(double: NhsNotifyDouble) -> None:
    clock = [0.0]

    def sleep(seconds: float) -> None:
        clock[0] += seconds

    accounts = NhsAppAccounts(double.account(), steady=lambda: clock[0], sleep=sleep, within=timedelta(seconds=50))
    double.plan("accounts", *[Fault(answer=errors(429, "CM_QUOTA", Retry_After="40"))] * 5)
    with pytest.raises(AccountsNotFetched, match="429"):
        fetched(accounts)
    assert clock == [50]
    accounts.close()


def test_a_refused_token_is_no_end(double: NhsNotifyDouble, accounts: NhsAppAccounts) -> None:
    pages = accounts.fetch("A28095")
    next(pages)
    double.revoke_tokens()
    assert len(list(pages)) == 2


@pytest.mark.parametrize(
    ("endpoint", "fault", "reason"),
    [
        ("accounts", Fault(answer=errors(403, "CM_FORBIDDEN")), "403"),
        ("accounts", Fault(answer=errors(400, "CM_INVALID_VALUE")), "ods_code"),
        ("accounts", Fault(answer=Reply(302, b"", {"Location": "https://example.test"})), "302"),
        ("accounts", Fault(answer=Reply(200, b"<html>")), "something else"),
        ("accounts", Fault(answer=Reply(200, {"data": {"id": "A28095", "attributes": {"accounts": []}}})), "something"),
        ("token", Fault(answer=Reply(401, {"error": "invalid_client"})), "invalid_client"),
    ],
)
def test_what_cannot_be_mended_by_waiting_ends_at_once(
    double: NhsNotifyDouble, accounts: NhsAppAccounts, slept: list[float], endpoint: Endpoint, fault: Fault, reason: str
) -> None:
    double.plan(endpoint, fault)
    with pytest.raises(AccountsNotFetched, match=reason):
        fetched(accounts)
    assert slept == []


def test_an_unknown_practice_is_named(accounts: NhsAppAccounts) -> None:
    with pytest.raises(AccountsNotFetched, match=r"B99999.*404.*ods_code"):
        list(accounts.fetch("B99999"))


def with_next(link: str | None) -> Any:
    def alter(page: Any) -> Any:
        page["links"]["next"] = link
        return page

    return alter


def of_another_practice(page: Any) -> Any:
    page["data"]["id"] = "B99999"
    return page


def with_a_bad_number(page: Any) -> Any:
    page["data"]["attributes"]["accounts"][0]["nhsNumber"] = 9990000018
    return page


def with_nobody(page: Any) -> Any:
    page["data"]["attributes"]["accounts"] = []
    return page


def with_a_word_for_a_flag(page: Any) -> Any:
    page["data"]["attributes"]["accounts"][0]["notificationsEnabled"] = "yes"
    return page


@pytest.mark.parametrize(
    ("alter", "reason"),
    [
        (with_next("https://elsewhere.test/comms/channels/nhsapp/accounts?page=2"), "another host"),
        (with_next("//127.0.0.1:1/comms/channels/nhsapp/accounts?page=2"), "another host"),
        (with_next("/comms/channels/nhsapp/accounts?page=1"), "leads to page 1"),
        (with_next("/comms/channels/nhsapp/accounts?page=7"), "leads to page 7"),
        (with_next("/comms/channels/nhsapp/accounts?page=two"), "names no page"),
        (with_next("/comms/channels/nhsapp/accounts?page=2&page=3"), "names no page"),
        (with_next("/comms/channels/nhsapp/accounts"), "names no page"),
        (with_next("/comms/channels/nhsapp/accounts?page"), "can't be read"),
        (with_next("https://["), "can't be read"),
        (with_next(None), "page 1 of 3 leads no further"),
        (of_another_practice, "another practice"),
        (with_nobody, "page 1 names nobody"),
        (with_a_bad_number, "something else"),
        (with_a_word_for_a_flag, "something else"),
    ],
)
def test_a_broken_chain_of_pages_is_no_snapshot(
    double: NhsNotifyDouble, accounts: NhsAppAccounts, alter: Any, reason: str
) -> None:
    double.plan("accounts", Fault(alter=alter))
    with pytest.raises(AccountsNotFetched, match=reason) as raised:
        fetched(accounts)
    assert double.asked["accounts"] == 1
    assert "9990000018" not in str(raised.value)


def test_a_link_of_our_own_host_is_followed_by_its_number(double: NhsNotifyDouble, accounts: NhsAppAccounts) -> None:
    double.plan("accounts", Fault(alter=with_next("/elsewhere?ods-organisation-code=B99999&page=2")))
    assert all_fetched(accounts) == ACCOUNTS


def test_closing_ends_the_thread_and_a_later_call_begins_anew(double: NhsNotifyDouble, connect: Connect) -> None:
    before = set(threading.enumerate())
    notify = connect(double.account())
    send(notify)
    assert any(thread.name == "bounded-http" for thread in set(threading.enumerate()) - before)
    notify.close()
    give_up = time.monotonic() + 2
    while any(thread.name == "bounded-http" for thread in set(threading.enumerate()) - before):
        assert time.monotonic() < give_up
        time.sleep(0.01)
    assert send(notify) == Answer()
    notify.close()
