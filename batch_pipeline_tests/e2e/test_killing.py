"""`kill -9` of the real program while it sends: started again, it sends the rest, and nothing twice."""

import os
import random
import signal
import subprocess
import time
from datetime import datetime

import pytest

from batch_pipeline_tests.e2e.surgery import PROGRAM, Person, Surgery, T, hours, mobile

PATIENTS = 1500
HURRY = {"BATCH_PIPELINE_SIMULATOR_CHUNK": "10", "BATCH_PIPELINE_SIMULATOR_TIMEOUT_SECONDS": "0.3"}
"""Many small calls, so that there is something to interrupt; and leases that are over soon."""
TRIES = 4


@pytest.mark.slow
def test_a_program_killed_while_it_sends_and_while_it_falls_back_sends_each_message_once(
    surgery_on_disk: Surgery,
) -> None:
    surgery = surgery_on_disk
    people = [Person(n, mobile=mobile(n % 1000)) for n in range(PATIENTS)]
    surgery.app_users(*people)
    surgery.workspace(simulator={"shares": {"nhs_app": {"silent": 1}, "lost_answers": 0.02}})
    surgery.done("submit", surgery.batch("flu", people), at=T)
    surgery.done("approve", "flu", "--by", "Dr Test", at=T)

    moments = random.Random(20261001)
    for command, already, at in ((["dispatch", "flu"], 0, T), (["sweep"], PATIENTS, T + hours(24))):
        for nth in range(TRIES):
            enough = already + (nth + moments.random()) * PATIENTS / (TRIES + 1)
            kill_when_it_has_sent(surgery, command, at, enough)
            surgery.sent_once()
            surgery.status("flu")
        ran = surgery.program(*command, at=at, env={**os.environ, **HURRY})
        assert ran.code == 0, ran.err
        assert len(surgery.sent_once()) == already + PATIENTS
    surgery.done("sweep", at=T + hours(30))
    surgery.status("flu", status="Done", fallback_sent=PATIENTS, fallback_delivered=PATIENTS, unread=PATIENTS)


@pytest.mark.slow
def test_two_programs_that_dispatch_one_batch_at_once_send_each_message_once(surgery_on_disk: Surgery) -> None:
    surgery = surgery_on_disk
    surgery.done("submit", surgery.batch("flu", [Person(n, mobile=mobile(n % 1000)) for n in range(PATIENTS)]), at=T)
    surgery.done("approve", "flu", "--by", "Dr Test", at=T)
    typed = [PROGRAM, "--home", surgery.home.root, "dispatch", "flu", "--at", T.isoformat()]
    both = [subprocess.Popen(typed, env={**os.environ, **HURRY}, stdout=subprocess.DEVNULL) for _ in range(2)]
    assert [running.wait() for running in both] == [0, 0]
    assert len(surgery.sent_once()) == PATIENTS
    surgery.status("flu", awaiting=PATIENTS)


def kill_when_it_has_sent(surgery: Surgery, command: list[str], at: datetime, enough: float) -> None:
    with subprocess.Popen(
        [PROGRAM, "--home", surgery.home.root, *command, "--at", at.isoformat()],
        env={**os.environ, **HURRY},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as running:
        while surgery.journal().total() < enough:
            assert running.poll() is None, "it ended before it was killed"
            time.sleep(0.01)
        running.send_signal(signal.SIGKILL)
        assert running.wait() == -signal.SIGKILL
