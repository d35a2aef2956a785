"""What must hold after a round, by SPEC 2.7 and 2.8 alone: from what the provider took and told, and what the ledger says."""

from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from batch_pipeline.ledger.engine import Ledger
from batch_pipeline.ledger.tables import attempts, receipts
from batch_pipeline.rules.states import attempt_state_sql
from batch_pipeline_tests.sending.round_services import Kind, Service

_MOST_SHOWN = 5


@dataclass(frozen=True)
class Message:
    """One message, as the ledger knows it. Nothing of the patient."""

    reference: str
    channel: str
    state: str
    accepted: bool
    unconfirmed: bool
    refused_for: str | None


@dataclass(frozen=True)
class Facts:
    """What came of a round."""

    messages: tuple[Message, ...]
    taken: Mapping[str, int]
    told: Mapping[str, Collection[Kind]]
    in_hand: Collection[str]
    cut_in_doubt: int
    one_in_doubt: bool
    not_folded: int
    violations: tuple[str, ...]

    @classmethod
    def gather(
        cls, ledger: Ledger, service: Service, told: Mapping[str, Collection[Kind]], in_hand: Collection[str]
    ) -> "Facts":
        state = sa.literal_column(attempt_state_sql("attempts")).label("state")
        names = ("reference", "channel", "accepted_at", "unconfirmed_at", "failure_kind", "failure_code")
        query = sa.select(state, *(attempts.c[name] for name in names)).order_by(attempts.c.line)
        unfolded = sa.select(sa.func.count()).select_from(receipts).where(receipts.c.folded_at.is_(None))
        with ledger.read() as connection:
            messages = tuple(_message(row) for row in connection.execute(query))
            not_folded = connection.scalar(unfolded) or 0
        return cls(
            messages=messages,
            taken=service.taken(),
            told=told,
            in_hand=in_hand,
            cut_in_doubt=service.cut_in_doubt,
            one_in_doubt=service.one_in_doubt,
            not_folded=not_folded,
            violations=tuple(service.violations()),
        )


def _message(row: Any) -> Message:
    return Message(
        reference=row.reference,
        channel=row.channel,
        state=row.state,
        accepted=row.accepted_at is not None,
        unconfirmed=row.state == "unconfirmed",
        refused_for=(row.failure_code or "?") if row.failure_kind == "refused" else None,
    )


def faults(facts: Facts) -> list[str]:
    """Everything that must not be; empty where all is well."""
    found = Counter[str]()
    examples: dict[str, list[str]] = {}
    for message in facts.messages:
        for fault in _faults_of(message, facts):
            found[fault] += 1
            examples.setdefault(fault, []).append(message.reference)
    told = [f"{fault}: {count} ({', '.join(examples[fault][:_MOST_SHOWN])})" for fault, count in found.items()]
    return told + list(_faults_of_the_whole(facts))


def _faults_of(message: Message, facts: Facts) -> Iterator[str]:
    taken = facts.taken.get(message.reference, 0)
    if taken > 1:
        yield "taken twice"
    if message.state in ("queued", "sending"):
        yield "lost: neither sent nor at an end"
    elif message.unconfirmed:
        if not facts.one_in_doubt:
            yield "unconfirmed, though its provider can settle that"
    elif message.refused_for is not None:
        if taken:
            yield "refused in the ledger, taken by the provider"
    elif not taken:
        yield "sent in the ledger, never taken by the provider"
    elif (expected := _state(message, facts.told.get(message.reference, ()))) != message.state:
        yield f"is {message.state}, and by what was told of it {expected}"


def _state(message: Message, told: Collection[Kind]) -> str:
    """SPEC 2.8: read, delivered, failed, waiting; an email that was accepted stays so unless it bounces."""
    if message.channel == "email":
        return "failed" if "failed" in told else "accepted"
    return next((kind for kind in ("read", "delivered", "failed") if kind in told), "accepted")


def _faults_of_the_whole(facts: Facts) -> Iterator[str]:
    ours = {message.reference for message in facts.messages}
    if others := sum(facts.taken.values()) - sum(facts.taken.get(reference, 0) for reference in ours):
        yield f"the provider has {others} messages that nobody was to send"
    unconfirmed = {message.reference for message in facts.messages if message.unconfirmed}
    if len(unconfirmed - set(facts.in_hand)) > facts.cut_in_doubt:
        yield (
            f"{len(unconfirmed - set(facts.in_hand))} unconfirmed that no dying process held, and {facts.cut_in_doubt} "
            "connections cut at a moment of doubt"
        )
    if facts.not_folded:
        yield f"{facts.not_folded} receipts were stored and never folded"
    yield from sorted(set(facts.violations))
