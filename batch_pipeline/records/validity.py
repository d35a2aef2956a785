"""Whether a resource is FHIR R4: asked of each before it is written.

``fhir.resources`` (its R4B; what we write is the same in R4) knows the shape, and takes any word as a status. Which
words there are is checked here, and that a resource can be found again by our identifier.
"""

from collections.abc import Mapping
from functools import cache
from types import MappingProxyType
from typing import Any

from pydantic import BaseModel, ValidationError

from batch_pipeline.records.writer import our_identifiers

STATUSES: Mapping[str, frozenset[str]] = MappingProxyType(
    {
        "Communication": frozenset(
            {
                *("preparation", "in-progress", "not-done", "on-hold"),
                *("stopped", "completed", "entered-in-error", "unknown"),
            }
        ),
        "QuestionnaireResponse": frozenset({"in-progress", "completed", "amended", "entered-in-error", "stopped"}),
        "Observation": frozenset(
            {
                *("registered", "preliminary", "final", "amended"),
                *("corrected", "cancelled", "entered-in-error", "unknown"),
            }
        ),
        "Appointment": frozenset(
            {
                *("proposed", "pending", "booked", "arrived", "fulfilled"),
                *("cancelled", "noshow", "entered-in-error", "checked-in", "waitlist"),
            }
        ),
    }
)
"""By type of resource, of those that are written at all."""


class NotValid(Exception):
    """A resource that no record may get. Names elements, and nothing that stands in them."""


def check(resource: Mapping[str, Any]) -> None:
    """``NotValid`` for what isn't a resource of a known type, with a known status and our identifier."""
    kind = str(resource.get("resourceType"))
    if kind not in STATUSES:
        raise NotValid("resourceType")
    try:
        _model(kind).model_validate(resource)
    except ValidationError as error:
        raise NotValid(", ".join(sorted({_place(fault["loc"]) for fault in error.errors()}))) from None
    if resource["status"] not in STATUSES[kind]:
        raise NotValid("status")
    if len([each for each in our_identifiers(resource) if each]) != 1:
        raise NotValid("identifier")


def _place(where: tuple[int | str, ...]) -> str:
    """Without the numbers; an element that isn't FHIR's is named by nothing of ours either."""
    return ".".join(str(part) for part in where if not isinstance(part, int)) or "resource"


@cache
def _model(kind: str) -> type[BaseModel]:
    """Loaded when it is wanted: it takes longer than a command that writes nothing."""
    from fhir.resources.R4B import get_fhir_model_class  # noqa: PLC0415

    return get_fhir_model_class(kind)
