"""Patients' answers as entries of the record: a ``QuestionnaireResponse`` each, and what is observed in it (SPEC 2.13).

Only answers that were sent are written: they change no more, so an entry is true for ever. What they are known by comes
from the reference of the message that asked for them, and is the same at each try.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from batch_pipeline.ledger import records
from batch_pipeline.ledger.engine import Ledger
from batch_pipeline.ledger.records import Sent
from batch_pipeline.questionnaires import responses
from batch_pipeline.questionnaires.answers import from_json
from batch_pipeline.questionnaires.fhir import NotFhir
from batch_pipeline.questionnaires.form import Answers, Form
from batch_pipeline.questionnaires.responses import About
from batch_pipeline.records.writer import IDENTIFIERS, Entry, Outcome

_AT_ONCE = 200
_PURGED = "its details were purged"


def list_observations(ledger: Ledger, batch: str, form: Form, now: Callable[[], datetime]) -> None:
    """Notes down what is observed in the answers that were sent since: how much that is, each patient's answers say."""
    while True:
        with ledger.read() as connection:
            some = records.unlisted(connection, batch, _AT_ONCE)
        if not some:
            return
        found = [(sent, _observed(form, sent)) for sent in some]
        with ledger.write() as connection:
            records.list_observations(connection, batch, found, now())


def _observed(form: Form, sent: Sent) -> list[str]:
    given = _given(form, sent)
    return [] if given is None else responses.observed(form, given, _about(sent, ""))


def _given(form: Form, sent: Sent) -> Answers | None:
    return None if sent.answers is None else from_json(form, json.loads(sent.answers))


def _about(sent: Sent, nhs_number: str) -> About:
    return About(IDENTIFIERS, sent.identifier, nhs_number)


class Responses:
    """The answers of a batch's patients, each a ``QuestionnaireResponse``."""

    resource_type = "QuestionnaireResponse"

    def __init__(self, form: Form) -> None:
        self._form = form

    def due(self, connection: sa.Connection, batch: str, now: datetime) -> records.Due:
        """At once: answers that were sent change no more."""
        del connection, now
        return records.due_responses(batch)

    def made(self, connection: sa.Connection, identifiers: Sequence[str]) -> list[Entry | Outcome]:
        """None is made of answers that were purged."""
        return [self._one(sent) for sent in records.sent_answers(connection, identifiers)]

    def _one(self, sent: Sent) -> Entry | Outcome:
        given = _given(self._form, sent)
        if given is None or sent.nhs_number is None:
            return Outcome(sent.identifier, "refused", _PURGED)
        about = _about(sent, sent.nhs_number)
        try:
            made = responses.response(self._form, given, about, status="completed", authored=sent.completed_at)
        except NotFhir as fault:
            return Outcome(sent.identifier, "refused", str(fault))
        return Entry(sent.identifier, made)


class Observations:
    """What is observed in those answers, each an ``Observation``."""

    resource_type = "Observation"

    def __init__(self, form: Form) -> None:
        self._form = form

    def due(self, connection: sa.Connection, batch: str, now: datetime) -> records.Due:
        """As ``list_observations`` has them."""
        del connection, now
        return records.due_observations(batch)

    def made(self, connection: sa.Connection, identifiers: Sequence[str]) -> list[Entry | Outcome]:
        """Those of these identifiers, in the order of lines."""
        wanted = set(identifiers)
        return [
            each
            for sent in records.sent_answers(connection, identifiers)
            for each in self._of(sent)
            if each.identifier in wanted
        ]

    def _of(self, sent: Sent) -> Iterator[Entry | Outcome]:
        given = _given(self._form, sent)
        if given is None or sent.nhs_number is None:
            return
        about = _about(sent, sent.nhs_number)
        try:
            made = responses.observations(self._form, given, about)
        except NotFhir as fault:
            yield from (Outcome(each, "refused", str(fault)) for each in responses.observed(self._form, given, about))
            return
        yield from (Entry(_identifier(each), each) for each in made)


def _identifier(observation: dict[str, Any]) -> str:
    return observation["identifier"][0]["value"]
