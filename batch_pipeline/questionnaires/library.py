"""A home's questionnaires: ``questionnaires/*.json``, each called by its file's name."""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from batch_pipeline.errors import Refused
from batch_pipeline.home import Home
from batch_pipeline.questionnaires.definition import read_form
from batch_pipeline.questionnaires.fhir import faults
from batch_pipeline.questionnaires.form import Form
from batch_pipeline.yaml_files import read_text

_ID = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Definition:
    """A questionnaire as a batch keeps it: what it is made of, so that one changed later changes no batch."""

    form: Form
    text: str
    sha256: str

    def as_dict(self) -> dict[str, str]:
        """As the ledger notes it with the batch."""
        return {"id": self.form.id, "version": self.form.version, "sha256": self.sha256}


def known(home: Home) -> list[str]:
    """The ids of a home's questionnaires, whether or not they are sound."""
    folder = home.questionnaires
    return sorted(path.stem for path in folder.glob("*.json") if _ID.fullmatch(path.stem)) if folder.is_dir() else []


def load_questionnaire(home: Home, wanted: str) -> Definition:
    """The questionnaire of that id, checked by FHIR's rules and by ours. Raises ``Refused``, naming those there are."""
    if wanted not in (ids := known(home)):
        others = f"there are {', '.join(ids)}" if ids else "there are none: `batch-pipeline init` brings those shipped"
        raise Refused(f'there is no questionnaire "{wanted}" in {home.questionnaires}; {others}')
    path = home.questionnaires / f"{wanted}.json"
    text = read_text(path)
    resource = _parsed(text, path.name)
    if found := faults(resource, "Questionnaire"):
        more = f" (and {len(found) - 1} more to mend)" if len(found) > 1 else ""
        raise Refused(f"{path.name}{_beside(resource, found[0])}: it isn't valid FHIR R4: {found[0]}{more}")
    form = read_form(resource, form_id=wanted, file=path.name)
    return Definition(form, text, hashlib.sha256(text.encode()).hexdigest())


def kept_form(text: str, form_id: str) -> Form:
    """The form of a questionnaire that was checked when its batch was submitted: FHIR's rules aren't asked again."""
    return read_form(_parsed(text, f"{form_id}.json"), form_id=form_id, file=f"{form_id}.json")


def _parsed(text: str, file: str) -> Mapping[str, Any]:
    try:
        resource = json.loads(text)
    except json.JSONDecodeError as error:
        raise Refused(f"{file}, line {error.lineno}: this isn't readable JSON ({error.msg})") from None
    except RecursionError:
        raise Refused(f"{file} is nested too deeply") from None
    if not isinstance(resource, dict) or resource.get("resourceType") != "Questionnaire":
        raise Refused(f"{file}: it has to be one FHIR resource with resourceType Questionnaire")
    return resource


def _beside(resource: Mapping[str, Any], fault: str) -> str:
    """The linkId of the item that a fault's place, such as ``item.0.item.2.type``, is in."""
    at: Any = resource
    link_id = ""
    for part in fault.split(":", 1)[0].split("."):
        at = _into(at, part)
        if isinstance(at, dict) and "linkId" in at:
            link_id = f", linkId {at['linkId']}"
    return link_id


def _into(at: Any, part: str) -> Any:
    if isinstance(at, list) and part.isdecimal() and int(part) < len(at):
        return at[int(part)]
    return at.get(part) if isinstance(at, dict) else None
