"""FHIR R4's own rules, by ``fhir.resources``. It takes half a second to import, so only checking imports it.

The R4B models: for the resources used here R4B has nothing that R4 hasn't. They check shape and types, but no codes of
FHIR's own, such as a status: whoever writes those takes them from a ``Literal``.
"""

from collections.abc import Mapping
from importlib import import_module
from typing import Any, Literal

from pydantic import ValidationError

_MODELS = {
    "Observation": "observation",
    "Questionnaire": "questionnaire",
    "QuestionnaireResponse": "questionnaireresponse",
}
Resource = Literal["Observation", "Questionnaire", "QuestionnaireResponse"]


def faults(resource: Mapping[str, Any], kind: Resource) -> list[str]:
    """What is wrong with a resource of that type, by place; never a value, which may be a patient's."""
    model = getattr(import_module(f"fhir.resources.R4B.{_MODELS[kind]}"), kind)
    try:
        model.model_validate(resource)
    except ValidationError as error:
        return [
            f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}"
            for problem in error.errors(include_url=False, include_input=False, include_context=False)
        ]
    return []


class NotFhir(ValueError):
    """A resource made here isn't valid: a fault of ours, and it goes nowhere."""


def checked(resource: dict[str, Any], kind: Resource) -> dict[str, Any]:
    """The resource, if it is valid. Raises ``NotFhir`` with the places."""
    if found := faults(resource, kind):
        raise NotFhir(f"the {kind} made here isn't valid FHIR R4: {'; '.join(found)}")
    return resource
