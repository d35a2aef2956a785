"""The writer to a FHIR server: what each answer means, and that nothing is created twice."""

from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest

from batch_pipeline.errors import Refused
from batch_pipeline.ledger.engine import Ledger
from batch_pipeline.records.communication import Message, Sender, communication
from batch_pipeline.records.fhir_server import MANY_REFUSALS, TRIES, FhirAccount, FhirServer
from batch_pipeline.records.pace import Pace
from batch_pipeline.records.writer import Entry, Outcome, WriterStopped
from batch_pipeline_tests.ledger.given import NOW, nhs_number
from batch_pipeline_tests.ledgers import on_sqlite_alone
from batch_pipeline_tests.providers.nhs_notify_double import Fault, Reply
from batch_pipeline_tests.records.fhir_double import FhirDouble, outcome

SENDER = Sender("A99999", "Larkfield Surgery", ["1324681000000101"])
TIMEOUT = timedelta(seconds=5)


class Turns(Pace):
    """Nobody waits, and what would have been waited is noted."""

    def __init__(self) -> None:
        self.waits: list[float] = []
        self.held: list[timedelta] = []
        self.sleep: Callable[[float], None] = self.waits.append

    def wait(self) -> None:
        """It is always our turn."""

    def hold_back(self, pause: timedelta) -> None:
        if pause:
            self.held.append(pause)


def entry(line: int) -> Entry:
    message = Message(
        f"flu:1a2b3c4d:{line}:primary", "sms", "completed", nhs_number(line), "Words & “more” of them", sent=NOW
    )
    return Entry(message.reference, communication(SENDER, message))


ENTRIES = [entry(line) for line in range(2, 16)]
NAMES = [each.identifier for each in ENTRIES]


@pytest.fixture
def double() -> Iterator[FhirDouble]:
    with FhirDouble() as running:
        yield running
    assert running.failures == []
    assert set(running.times_created().values()) <= {1}


@pytest.fixture
def turns() -> Turns:
    return Turns()


@pytest.fixture
def server(double: FhirDouble, turns: Turns) -> Iterator[FhirServer]:
    made = FhirServer(double.by_token(), turns, TIMEOUT)
    yield made
    made.close()


def write(server: FhirServer, *entries: Entry) -> list[Outcome]:
    return [each for some in server.write("flu/Communication/0001-x", entries, lambda: None) for each in some]


def gather(server: FhirServer, found: list[Outcome]) -> None:
    for some in server.write("flu/Communication/0001-x", ENTRIES, lambda: None):
        found.extend(some)


def test_entries_are_created_each_under_its_own_condition(double: FhirDouble, server: FhirServer) -> None:
    server.check("Communication")
    assert write(server, *ENTRIES[:3]) == [Outcome(name, "written") for name in NAMES[:3]]
    assert double.created == [each.resource for each in ENTRIES[:3]]


def test_what_is_there_already_is_taken_as_written(double: FhirDouble, server: FhirServer) -> None:
    write(server, *ENTRIES[:2])
    assert write(server, *ENTRIES[:3]) == [Outcome(name, "written") for name in NAMES[:3]]
    assert list(double.times_created()) == NAMES[:3]


def test_tokens_are_fetched_and_a_revoked_one_is_renewed(double: FhirDouble, turns: Turns) -> None:
    server = FhirServer(double.by_keys(), turns, TIMEOUT)
    write(server, ENTRIES[0])
    double.revoke_tokens()
    assert write(server, ENTRIES[1]) == [Outcome(NAMES[1], "written")]
    assert double.asked["token"] == 2
    server.close()


@pytest.mark.parametrize(
    "fault",
    [
        Fault(drop="before"),
        Fault(drop="after"),
        Fault(repeat=True),
        *(Fault(answer=outcome(status, "transient")) for status in (408, 409, 425, 429, 500, 502, 503, 504)),
    ],
)
def test_what_may_pass_is_tried_again_and_nothing_is_there_twice(
    double: FhirDouble, server: FhirServer, fault: Fault
) -> None:
    double.plan("batches", *[fault] * (TRIES - 1))
    assert write(server, ENTRIES[0]) == [Outcome(NAMES[0], "written")]
    assert double.times_created() == {NAMES[0]: 1}


def test_tries_are_further_and_further_apart_unless_the_server_says_when(
    double: FhirDouble, server: FhirServer, turns: Turns
) -> None:
    double.plan("batches", *[Fault(answer=outcome(503, "transient"))] * 2)
    write(server, ENTRIES[0])
    assert turns.waits == [1.0, 2.0]
    double.plan("batches", Fault(answer=outcome(429, "throttled", Retry_After="7")))
    write(server, ENTRIES[1])
    assert turns.waits == [1.0, 2.0]
    assert turns.held == [timedelta(seconds=7)]


def test_who_asks_for_a_long_pause_gets_it(double: FhirDouble, server: FhirServer, turns: Turns) -> None:
    double.plan("batches", Fault(answer=outcome(503, "transient", Retry_After="300")))
    with pytest.raises(WriterStopped, match="300 seconds"):
        write(server, *ENTRIES[:2])
    assert turns.held == [timedelta(seconds=300)]
    assert double.created == []


def test_one_that_the_server_cannot_take_now_keeps_no_other_out(double: FhirDouble, server: FhirServer) -> None:
    double.refuses[NAMES[1]] = outcome(500, "exception")
    found = write(server, *ENTRIES[:3])
    assert [(each.identifier, each.became) for each in found] == [
        (NAMES[0], "written"),
        (NAMES[1], "later"),
        (NAMES[2], "written"),
    ]


def test_a_server_that_is_down_is_left_alone(double: FhirDouble, server: FhirServer) -> None:
    double.refuses = dict.fromkeys(NAMES, outcome(503, "transient"))
    with pytest.raises(WriterStopped, match="503 transient"):
        write(server, *ENTRIES)
    assert double.asked["batches"] == 3 * TRIES


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (outcome(400, "invalid"), "400 invalid"),
        (outcome(403, "forbidden"), "403 forbidden"),
        (outcome(412, "multiple-matches"), "412 multiple-matches"),
        (outcome(422, "processing"), "422 processing"),
        (outcome(422, "words of 9990000018"), "422"),
        (Reply(422, b"no JSON"), "422"),
    ],
)
def test_one_that_is_refused_is_noted_and_the_rest_go_on(
    double: FhirDouble, server: FhirServer, answer: Reply, code: str
) -> None:
    double.refuses[NAMES[1]] = answer
    assert write(server, *ENTRIES[:3]) == [
        Outcome(NAMES[0], "written"),
        Outcome(NAMES[1], "refused", code),
        Outcome(NAMES[2], "written"),
    ]
    assert double.asked["batches"] == 3


def test_the_last_of_a_chunk_may_be_refused(double: FhirDouble, server: FhirServer) -> None:
    double.refuses[NAMES[0]] = outcome(422, "processing")
    assert write(server, ENTRIES[0]) == [Outcome(NAMES[0], "refused", "422 processing")]


@pytest.mark.parametrize(("taken", "asked"), [(0, 3), (1, 1 + MANY_REFUSALS)])
def test_where_all_are_refused_none_is_noted_for_it(
    double: FhirDouble, server: FhirServer, taken: int, asked: int
) -> None:
    double.refuses = dict.fromkeys(NAMES[taken:], outcome(403, "forbidden"))
    found: list[Outcome] = []
    with pytest.raises(WriterStopped, match="in a row"):
        gather(server, found)
    assert found == [Outcome(name, "written") for name in NAMES[:taken]]
    assert double.asked["batches"] == asked


@pytest.mark.parametrize("status", [202, 204, 301, 401])
def test_an_answer_that_no_fhir_server_gives_stops_the_run(double: FhirDouble, server: FhirServer, status: int) -> None:
    double.refuses[NAMES[0]] = Reply(status, b"")
    with pytest.raises(WriterStopped, match=str(status)):
        write(server, *ENTRIES[:2])
    assert double.asked["batches"] == 1


@pytest.mark.parametrize(
    "capabilities",
    [
        {"resourceType": "CapabilityStatement", "rest": [{"resource": [{"type": "Communication"}]}]},
        {"resourceType": "CapabilityStatement", "rest": [{"resource": [{"type": "Task", "conditionalCreate": True}]}]},
        {"resourceType": "CapabilityStatement"},
        [],
    ],
)
def test_a_server_that_may_create_twice_is_refused(double: FhirDouble, server: FhirServer, capabilities: Any) -> None:
    double.capabilities = Reply(200, capabilities)
    with pytest.raises(Refused, match="written twice"):
        server.check("Communication")


def test_a_server_that_is_not_there_stops_the_run(double: FhirDouble, turns: Turns) -> None:
    gone = FhirServer(FhirAccount("http://127.0.0.1:9/fhir", token="t"), turns, TIMEOUT)
    with pytest.raises(WriterStopped, match="wasn't reached"):
        gone.check("Communication")
    gone.close()


def test_nothing_is_posted_by_who_has_lost_the_lease(double: FhirDouble, server: FhirServer) -> None:
    def lost() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        list(server.write("flu/Communication/0001-x", ENTRIES[:1], lost))
    assert double.asked["batches"] == 0


@pytest.mark.parametrize("url", ["http://records.example.org/fhir", "records", "https://a:b@c.example/fhir"])
def test_patients_details_go_by_https_alone(url: str) -> None:
    with pytest.raises(Refused, match=r"record\.base_url"):
        FhirAccount(url, token="t")


def test_no_secret_is_shown() -> None:
    account = FhirAccount("https://records.example.org", token="s3cret", api_key="s3cret", private_key="s3cret")
    assert "s3cret" not in repr(account)


@on_sqlite_alone
def test_the_turns_are_two_seconds_apart_and_a_far_one_is_not_waited_for(ledger: Ledger) -> None:
    waits: list[float] = []
    pace = Pace(ledger, "record:x", 30, wall=lambda: NOW, sleep=waits.append)
    for _ in range(3):
        pace.wait()
    assert waits == [0, 2, 4]
    pace.hold_back(timedelta(minutes=5))
    with pytest.raises(WriterStopped, match="300 seconds"):
        pace.wait()
    assert waits == [0, 2, 4]
