"""What a writer of the record is: something that takes FHIR resources, each once, and says what became of it."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Literal, Protocol, cast

IDENTIFIERS = "urn:uuid:0f5ab1d2-6f0c-4d0b-9c43-5a2c6f6f8a51"
"""The system of our identifiers: the same for every installation, as no two share a reference."""

Became = Literal["written", "refused", "later"]


@dataclass(frozen=True, slots=True)
class Entry:
    """One resource, and the identifier by which it is known to be the same one."""

    identifier: str
    resource: dict[str, Any] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of an entry. ``refused``: a person has to look; ``later``: it may go another time."""

    identifier: str
    became: Became
    code: str | None = None
    """Why it wasn't written; nothing personal."""


class WriterStopped(Exception):
    """Nothing more is written now, for this reason: of the entry at hand too it is known that it may go again."""


StillOurs = Callable[[], None]
"""Called right before each write, makes sure that nobody else has begun to write the same; raises if somebody has."""


class Writer(Protocol):
    """Where entries go."""

    @property
    def at_once(self) -> int:
        """How many entries are claimed together."""
        ...

    @property
    def lease(self) -> timedelta:
        """How long nobody else sets to work on what was claimed: several times as long as one write takes."""
        ...

    def check(self, resource_type: str) -> None:
        """``Refused``, before anything is written, where an entry of a type couldn't be written once."""
        ...

    def write(self, chunk: str, entries: Sequence[Entry], still_ours: StillOurs) -> Iterator[Sequence[Outcome]]:
        """Writes the entries of a chunk, and tells of them as soon as they are surely there.

        Called again with entries of the same chunk, some of which may have been written by a process that died, it
        writes none of them twice. ``WriterStopped`` where it can't go on.
        """
        ...

    def found(
        self, batch: str, resource_type: str, known: Callable[[], Collection[str]]
    ) -> Iterator[tuple[str, list[str]]]:
        """What lies there of a batch in chunks that aren't ``known``: their references, and their identifiers."""
        ...

    def close(self) -> None:
        """Gives up connections."""
        ...


def identifier(value: str) -> dict[str, str]:
    """A FHIR ``Identifier`` of ours."""
    return {"system": IDENTIFIERS, "value": value}


def our_identifiers(resource: Mapping[str, Any]) -> list[str]:
    """Those of a resource that are ours. Some types of resource have one identifier, others a list."""
    given: Any = resource.get("identifier")
    all_of_them = cast(list[dict[str, str]], given if isinstance(given, list) else [given or {}])
    return [each.get("value", "") for each in all_of_them if each.get("system") == IDENTIFIERS]
