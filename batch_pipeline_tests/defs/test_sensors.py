"""Each sensor: what it waits for, what it asks for, and that it asks once."""

from datetime import datetime
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import sqlalchemy as sa

from batch_pipeline import definitions
from batch_pipeline.defs.resources import ClockResource, HouseResource
from batch_pipeline.ledger import bookings
from batch_pipeline.ledger.tables import links
from batch_pipeline_tests.e2e.surgery import SECOND, Surgery, T, by_sms, hours, numbered


class Daemon:
    """As much of Dagster's daemon as these tests need: it keeps cursors and run keys, and runs what is asked for."""

    def __init__(self, surgery: Surgery) -> None:
        self.surgery = surgery
        self.cursors: dict[str, str | None] = {}
        self.keys: set[str] = set()
        self.said = ""

    def tick(self, sensor: str, at: datetime = T) -> list[dg.RunRequest]:
        """The run requests that the daemon would carry out."""
        with self.surgery.dagster() as instance:
            defs = definitions.defs()
            resources = {
                "house": HouseResource(home=str(self.surgery.home.root)),
                "clock": ClockResource(at=at.isoformat()),
            }
            with dg.build_sensor_context(
                instance=instance, cursor=self.cursors.get(sensor), definitions=defs, resources=resources
            ) as context:
                found = defs.resolve_sensor_def(sensor)(context)
            assert isinstance(found, dg.SensorResult)
            self.cursors[sensor] = found.cursor or self.cursors.get(sensor)
            self.said = str(found.skip_reason.skip_message if found.skip_reason else "")
            for request in found.dynamic_partitions_requests or ():
                assert isinstance(request, dg.AddDynamicPartitionsRequest)
                instance.add_dynamic_partitions(request.partitions_def_name, request.partition_keys)
            new = [run for run in found.run_requests or () if run.run_key is None or run.run_key not in self.keys]
            self.keys |= {run.run_key for run in new if run.run_key}
            for run in new:
                assert run.partition_key is not None
                assert instance.has_dynamic_partition("batch", run.partition_key)
            return new

    def run(self, sensor: str, request: dg.RunRequest, at: datetime = T) -> bool:
        with self.surgery.dagster() as instance:
            defs = definitions.defs()
            job = defs.resolve_job_def(str(defs.resolve_sensor_def(sensor).job_name))
            config = {
                **(request.run_config or {}),
                "resources": {"clock": {"config": {"at": at.isoformat()}}},
                "loggers": {"console": {"config": {"log_level": "CRITICAL"}}},
            }
            return job.execute_in_process(
                instance=instance, partition_key=request.partition_key, run_config=config, raise_on_error=False
            ).success

    def cycle(self, sensor: str, at: datetime = T) -> list[str]:
        """A tick, and the runs that it asks for; gives the batches."""
        found = self.tick(sensor, at)
        for request in found:
            assert self.run(sensor, request, at)
        return [str(request.partition_key) for request in found]


@pytest.fixture
def daemon(surgery: Surgery) -> Daemon:
    surgery.done("status")
    return Daemon(surgery)


def drop(surgery: Surgery, batch: str, numbers: range = range(1, 4), **keys: Any) -> Path:
    return surgery.batch(batch, numbered(by_sms, numbers), folder=surgery.home.inbox, **keys)


def test_a_file_is_planned_when_it_is_whole_and_once(daemon: Daemon) -> None:
    surgery = daemon.surgery
    assert daemon.tick("inbox_sensor") == []
    assert daemon.said == "nothing new in the inbox"

    # a batch file whose cohort isn't there yet, and a cohort that still grows
    spec = drop(surgery, "flu")
    cohort = spec.with_suffix(".csv")
    whole = cohort.read_bytes()
    cohort.unlink()
    assert daemon.tick("inbox_sensor") == []
    assert "flu.csv" in daemon.said
    cohort.write_bytes(whole[:60])
    assert daemon.tick("inbox_sensor") == []
    cohort.write_bytes(whole[:90])
    assert daemon.tick("inbox_sensor") == []
    cohort.write_bytes(whole)
    assert daemon.tick("inbox_sensor") == []

    # it has come to rest
    (request,) = daemon.tick("inbox_sensor")
    assert request.partition_key == "flu"
    assert request.run_config == {"ops": {"cohort": {"config": {"spec": "flu.yaml"}}}}
    assert "flu.csv" not in str(request.run_key)
    assert daemon.tick("inbox_sensor") == []
    assert daemon.run("inbox_sensor", request)
    surgery.status("flu", lines=3, status="Awaiting approval")

    # touched, written anew with the same content, looked at by a daemon that lost its cursor
    for disturb in (cohort.touch, spec.touch, lambda: cohort.write_bytes(whole), daemon.cursors.clear):
        disturb()
        assert [daemon.tick("inbox_sensor") for _ in range(3)] == [[], [], []]


@pytest.mark.slow
def test_a_file_put_back_after_another_one_is_planned_again(daemon: Daemon) -> None:
    surgery = daemon.surgery
    for people in (range(1, 4), range(1, 6), range(1, 4)):
        drop(surgery, "flu", people)
        assert daemon.cycle("inbox_sensor") == []
        assert daemon.cycle("inbox_sensor") == ["flu"]
        surgery.status("flu", lines=len(people))


def test_a_file_the_shell_has_planned_is_not_planned_again(daemon: Daemon) -> None:
    surgery = daemon.surgery
    surgery.done("submit", surgery.batch("flu", numbered(by_sms, range(1, 4))), at=T)
    assert sorted(path.name for path in surgery.home.inbox.iterdir()) == ["flu.csv", "flu.yaml"]
    assert [daemon.tick("inbox_sensor") for _ in range(3)] == [[], [], []]


def test_a_faulty_batch_file_is_named_and_stops_no_other(daemon: Daemon, caplog: pytest.LogCaptureFixture) -> None:
    surgery = daemon.surgery
    (surgery.home.inbox / "a-faulty.yaml").write_text("batch: [unclosed")
    (surgery.home.inbox / "b-unknown.yaml").write_text("batch: b\nworkspace: larkfield\ncohort: b.csv\ncolour: red\n")
    (surgery.home.inbox / "notes.txt").write_text("nothing of ours")
    (surgery.home.inbox / "d.yaml").mkdir()
    drop(surgery, "flu")
    assert daemon.tick("inbox_sensor") == []
    assert "a-faulty.yaml, line 1" in daemon.said
    assert "b-unknown.yaml" in daemon.said
    assert "colour" in daemon.said
    assert [request.partition_key for request in daemon.tick("inbox_sensor")] == ["flu"]


def test_a_cohort_that_is_refused_fails_its_run_with_the_sentence_and_waits_for_the_mend(daemon: Daemon) -> None:
    surgery = daemon.surgery
    surgery.batch("flu", b"", folder=surgery.home.inbox)
    daemon.tick("inbox_sensor")
    (request,) = daemon.tick("inbox_sensor")
    assert not daemon.run("inbox_sensor", request)
    assert surgery.stored() == []
    (surgery.home.inbox / "flu.csv").touch()
    assert [daemon.tick("inbox_sensor") for _ in range(3)] == [[], [], []]
    drop(surgery, "flu")
    assert daemon.cycle("inbox_sensor") == []
    assert daemon.cycle("inbox_sensor") == ["flu"]
    surgery.status("flu", lines=3)


def test_a_whole_batch_by_the_sensors_alone(daemon: Daemon) -> None:
    """From the inbox to the final report; each sensor asks only when something is due, and once."""
    surgery = daemon.surgery
    delivery = ("inbox_sensor", "dispatch_sensor", "receipts_sensor", "fallback_sensor")
    sensors = (*delivery, "records_sensor", "report_sensor")

    def busy(at: datetime) -> dict[str, list[str]]:
        """What each sensor did, in the order of the pipeline; nothing twice."""
        did = {sensor: daemon.cycle(sensor, at) for sensor in sensors}
        assert [daemon.cycle(sensor, at) for sensor in sensors] == [[]] * 6
        return {sensor: batches for sensor, batches in did.items() if batches}

    reader, unread = by_sms(1), by_sms(2)
    surgery.app_users(reader, unread)
    surgery.fate(unread, "nhs_app", "silent")
    assert busy(T) == {}
    surgery.batch("flu", [reader, unread, by_sms(3)], folder=surgery.home.inbox)
    daemon.tick("inbox_sensor")
    assert busy(T) == {"inbox_sensor": ["flu"]}
    surgery.done("review", "flu")
    surgery.done("approve", "flu", "--by", "Dr Test", at=T)
    with surgery.dagster() as instance:  # somebody tidies up in the UI, which may stop no sensor
        instance.delete_dynamic_partition("batch", "flu")
    assert busy(T) == {"dispatch_sensor": ["flu"]}
    assert busy(T + SECOND) == {}
    assert busy(T + hours(1)) == {"receipts_sensor": ["flu"], "records_sensor": ["flu"]}
    assert busy(T + hours(24) - SECOND) == {}
    assert busy(T + hours(24)) == {"fallback_sensor": ["flu"]}
    assert busy(T + hours(25)) == {"receipts_sensor": ["flu"], "report_sensor": ["flu"]}
    surgery.status("flu", status="Saving", delivered=3, fallback_sent=1)
    assert busy(T + hours(72) - SECOND) == {}
    assert busy(T + hours(72)) == {"records_sensor": ["flu"]}
    surgery.status("flu", status="Saved", delivered=3, fallback_sent=1)
    assert len(surgery.sent_once()) == 4
    assert len(surgery.report("flu", "outcomes.csv")) == 3
    assert busy(T + hours(1000)) == {}


def test_nothing_is_asked_for_a_paused_batch_until_it_is_resumed(daemon: Daemon) -> None:
    surgery = daemon.surgery
    unread = by_sms(1)
    surgery.app_users(unread)
    surgery.fate(unread, "nhs_app", "silent")
    surgery.done("submit", surgery.batch("flu", [unread]), at=T)
    surgery.done("approve", "flu", "--by", "Dr Test", at=T)
    for sensor, at in (("dispatch_sensor", T), ("fallback_sensor", T + hours(24))):
        for which in ("flu", "--all"):
            surgery.done("pause", which, "--by", "Dr Test", at=at)
            assert daemon.tick(sensor, at) == []
            surgery.done("resume", which, "--by", "Dr Test", at=at)
        assert daemon.cycle(sensor, at) == ["flu"]
        assert daemon.tick(sensor, at) == []
    assert surgery.sent_once() == {"flu:2:primary", "flu:2:fallback"}


def test_a_batch_that_a_run_is_at_work_on_gets_no_second_one(daemon: Daemon) -> None:
    surgery = daemon.surgery
    surgery.done("submit", surgery.batch("flu", numbered(by_sms, range(1, 4))), at=T)
    surgery.done("approve", "flu", "--by", "Dr Test", at=T)
    with surgery.dagster() as instance:
        run = instance.create_run_for_job(
            definitions.defs().resolve_job_def("dispatch"), tags={"dagster/partition": "flu"}
        )
        instance.report_run_canceling(run)
        for status, asked in (
            (dg.DagsterRunStatus.STARTED, []),
            (dg.DagsterRunStatus.FAILURE, []),
            (dg.DagsterRunStatus.CANCELED, ["flu"]),
        ):
            event = {
                dg.DagsterRunStatus.STARTED: dg.DagsterEventType.RUN_START,
                dg.DagsterRunStatus.FAILURE: dg.DagsterEventType.RUN_FAILURE,
                dg.DagsterRunStatus.CANCELED: dg.DagsterEventType.RUN_CANCELED,
            }[status]
            instance.handle_run_event(run.run_id, dg.DagsterEvent(event.value, run.job_name), None)
            found = instance.get_run_by_id(run.run_id)
            assert found is not None
            assert found.status is status
            assert [request.partition_key for request in daemon.tick("dispatch_sensor")] == asked


def test_sensors_say_that_there_is_no_home(tmp_path: Path) -> None:
    surgery = Surgery(tmp_path)
    daemon = Daemon(surgery)
    (surgery.home.dagster / "dagster.yaml").unlink()
    with pytest.raises(Exception, match=r"isn't a batch_pipeline home|Error occurred"):
        daemon.tick("dispatch_sensor")


def test_bookings_are_reported_and_saved_when_patients_have_chosen_something(daemon: Daemon) -> None:
    surgery = daemon.surgery
    surgery.workspace(links={"base_url": "https://msg.larkfield.example.org"})
    start = (T + hours(48)).isoformat(timespec="minutes")
    surgery.put(surgery.home.slots / "clinic.csv", f"id,start,minutes\nA,{start},10\n")
    words = {"type": "self_book", "body": "Please book: {{ link }}", "booking": "clinic"}
    surgery.send(surgery.batch("flu", [by_sms(1), by_sms(2)], message=words))
    sensors = ("bookings_sensor", "records_sensor")
    assert [daemon.tick(sensor, T + SECOND) for sensor in sensors] == [[], []]
    ledger = surgery.house.ledger
    with ledger.write() as connection:
        [token_hash, _] = connection.scalars(sa.select(links.c.token_hash).order_by(links.c.token_hash))
        clinic = bookings.Clinic("larkfield", "clinic")
        [slot] = bookings.places(connection, clinic)
        assert bookings.book(connection, token_hash, clinic, slot, None, T + SECOND, lambda: "b-1") == "done"
    for sensor in sensors:
        assert [daemon.cycle(sensor, T + 2 * SECOND) for _ in range(2)] == [["flu"], []]
    assert sorted(row["Answer"] for row in surgery.report("flu", "bookings.csv")) == ["Booked", "Not answered"]
    with ledger.write() as connection:
        assert bookings.cancel(connection, token_hash, clinic, "b-1", T + 3 * SECOND) == "done"
    for sensor in sensors:
        assert [request.partition_key for request in daemon.tick(sensor, T + hours(1))] == ["flu"]
