"""How a refusal that a person can mend looks in Dagster: a failure with one sentence, not retried."""

from collections.abc import Iterator
from contextlib import contextmanager

import dagster as dg

from batch_pipeline.errors import Refused

SENTENCE = "refused"
"""Metadata key of the sentence; the shell looks for it."""


@contextmanager
def refusals() -> Iterator[None]:
    """Turns ``Refused`` into a Dagster failure that carries its sentence and no traceback through our code."""
    try:
        yield
    except Refused as refusal:
        raise failure(str(refusal)) from None


def failure(sentence: str) -> dg.Failure:
    """The failure of a run that a person can mend."""
    return dg.Failure(sentence, metadata={SENTENCE: dg.MetadataValue.text(sentence)}, allow_retries=False)
