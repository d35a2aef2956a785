"""A patient's own address: put into the message at the post, the same at each, and no text after it is revoked."""

from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from typing_extensions import override

from batch_pipeline.ledger import links
from batch_pipeline.ledger.engine import Ledger
from batch_pipeline.providers.protocol import Answer, ChunkRefused, OutgoingMessage, Recovery, RefusedMessage
from batch_pipeline.providers.simulator import Shares, Simulator
from batch_pipeline.rules import links as rules
from batch_pipeline.sending import fallbacks
from batch_pipeline.sending.fallbacks import FallbackFacts, Swept
from batch_pipeline_tests.ledger.given import (
    BATCH,
    NOW,
    Recipient,
    approve,
    attempt_rows,
    begin,
    lines,
    patient,
    queue,
    set_attempts,
)
from batch_pipeline_tests.ledger.test_links import KEYS, rows
from batch_pipeline_tests.sending.worlds import Died, World

TEXT = f"See {rules.address('https://msg.example.org')} or ring us."
DAY = timedelta(hours=24)


class Recording(Simulator):
    """Remembers what was posted, whatever became of it."""

    posted: list[OutgoingMessage]

    @override
    def send(self, chunk_reference: str, messages: Sequence[OutgoingMessage], now: datetime) -> Answer:
        self.posted += messages
        return super().send(chunk_reference, messages, now)


def recording(world: World) -> Recording:
    made = Recording(
        world.folder / "simulator.sqlite",
        chunk=world.chunk,
        timeout=world.timeout,
        recovery=world.recovery,
        shares=world.shares,
    )
    made.posted = []
    return made


def expected(line: int) -> str:
    return f"See https://msg.example.org/{rules.token_of(KEYS, BATCH, patient(line))} or ring us."


def test_each_patient_is_sent_their_own_address_and_the_ledger_keeps_none(folder: Path) -> None:
    world = World(folder, recipients=lines(7, text=TEXT))
    provider = recording(world)
    assert world.dispatch(world.ledger, provider, complete=links.completer(KEYS, BATCH)).accepted == 7
    assert sorted(message.text for message in provider.posted) == sorted(expected(line) for line in range(2, 9))
    assert {text for (text,) in attempt_rows(world.ledger, "text")} == {TEXT}


@pytest.mark.parametrize("recovery", [Recovery.DEDUPLICATES, Recovery.CAN_BE_ASKED])
def test_a_chunk_that_is_posted_again_by_another_carries_the_same_addresses(folder: Path, recovery: Recovery) -> None:
    world = World(folder, recovery, shares=Shares(lost_answers=0.5), recipients=lines(30, text=TEXT))

    def die(moment: str) -> None:
        if moment == "after post":
            raise Died

    complete = links.completer(KEYS, BATCH)
    with suppress(Died):  # what it posted the simulator knows: the same chunk with other contents is an error to it
        world.process(die, complete=complete)
    provider = recording(world)
    world.dispatch(world.ledger, provider, complete=complete)
    assert len(world.journal()) == 30
    assert {message.text for message in provider.posted} <= {expected(line) for line in range(2, 32)}
    assert len(provider.posted) > 20


class Refusing(Recording):
    """Refuses the first chunk because of one message; meanwhile the link of another of it is revoked."""

    ledger: Ledger

    @override
    def send(self, chunk_reference: str, messages: Sequence[OutgoingMessage], now: datetime) -> Answer:
        if self.posted:
            return super().send(chunk_reference, messages, now)
        self.posted += messages
        with self.ledger.write() as connection:
            links.revoke(connection, BATCH, [2], "Dr Grey", NOW)
        (other,) = (message.reference for message in messages if ":3:" in message.reference)
        raise ChunkRefused([RefusedMessage(other, "CM_INVALID_NHS_NUMBER")])


def refusing(world: World) -> Refusing:
    made = Refusing(world.folder / "simulator.sqlite", chunk=5, timeout=world.timeout, recovery=world.recovery)
    made.posted, made.ledger = [], world.ledger
    return made


def test_what_is_unsent_again_after_its_link_was_revoked_does_not_go(folder: Path) -> None:
    """A chunk that the provider refused is given back, and the same run claims what is left of it at once."""
    world = World(folder, recipients=lines(5, text=TEXT))
    links.write(world.ledger, BATCH, "attachment", KEYS, rows(*range(2, 7)), NOW)
    provider = refusing(world)
    world.dispatch(world.ledger, provider)
    assert [len(provider.posted), f"{BATCH}:2:primary" in world.journal()] == [5 + 3, False]
    assert attempt_rows(world.ledger, "line", "cancelled_at", line=2) == [(2, NOW)]


def test_a_text_that_is_unsent_again_after_its_link_was_revoked_does_not_follow(folder: Path) -> None:
    world = World(folder, recipients=lines(5, "nhs_app", text=TEXT))
    links.write(world.ledger, BATCH, "attachment", KEYS, rows(*range(2, 7)), NOW)
    begin(world.ledger, *range(2, 7))
    set_attempts(world.ledger, {"accepted_at": NOW})
    facts = FallbackFacts("simulator")
    assert fallbacks.sweep(world.ledger, BATCH, NOW + DAY, facts) == Swept(5)
    provider = refusing(world)
    world.dispatch(world.ledger, provider, step="fallback")
    assert [len(provider.posted), f"{BATCH}:2:fallback" in world.journal()] == [5 + 3, False]
    assert fallbacks.sweep(world.ledger, BATCH, NOW + DAY, facts) == Swept(0, {"link_revoked": 1})


def test_nothing_follows_on_an_app_message_whose_link_was_revoked(ledger: Ledger) -> None:
    recipients = [Recipient(line, "nhs_app", text=TEXT) for line in (2, 3)]
    queue(ledger, recipients)
    links.write(ledger, BATCH, "attachment", KEYS, rows(2, 3), NOW)
    begin(ledger, 2, 3)
    set_attempts(ledger, {"accepted_at": NOW})
    with ledger.write() as connection:
        links.revoke(connection, BATCH, [2], "Dr Grey", NOW)
    swept = fallbacks.sweep(ledger, BATCH, NOW + DAY, FallbackFacts("simulator"))
    assert swept == Swept(1, {"link_revoked": 1})
    ended = attempt_rows(ledger, "line", "no_fallback_at", "no_fallback_because", step="primary")
    assert ended == [(2, NOW + DAY, "link_revoked"), (3, None, None)]


def test_a_queued_text_of_a_revoked_link_is_decided_anew_and_does_not_go(ledger: Ledger) -> None:
    queue(ledger, [Recipient(line, "nhs_app", text=TEXT) for line in (2, 3)])
    links.write(ledger, BATCH, "attachment", KEYS, rows(2, 3), NOW)
    begin(ledger, 2, 3)
    set_attempts(ledger, {"accepted_at": NOW})
    facts = FallbackFacts("simulator")
    assert fallbacks.sweep(ledger, BATCH, NOW + DAY, facts) == Swept(2)
    with ledger.write() as connection:
        links.revoke(connection, BATCH, [], "Dr Grey", NOW + DAY)
    assert attempt_rows(ledger, "line", step="fallback") == []
    assert fallbacks.sweep(ledger, BATCH, NOW + DAY, facts) == Swept(0, {"link_revoked": 2})


def test_a_batch_without_links_falls_back_as_ever(ledger: Ledger) -> None:
    queue(ledger, [Recipient(2, "nhs_app")])
    begin(ledger, 2)
    set_attempts(ledger, {"accepted_at": NOW})
    approve(ledger, "other")
    assert fallbacks.sweep(ledger, BATCH, NOW + DAY, FallbackFacts("simulator")) == Swept(1)
