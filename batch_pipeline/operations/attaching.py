"""The file that goes with a batch, and the address by which each patient reaches it (SPEC 2.6, 2.12)."""

import os
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

from batch_pipeline.errors import Refused
from batch_pipeline.house import House, Submitted
from batch_pipeline.rules import links
from batch_pipeline.rules.attachments import Attachment, NotAllowed
from batch_pipeline.settings import BatchFile, Workspace


@dataclass(frozen=True, slots=True)
class Attached:
    """An attachment that was read, and its content."""

    file: Attachment
    content: bytes = field(repr=False)

    def keep(self, house: House) -> Path:
        """Puts it into the home under the SHA-256 of its content, whole and on disk; the same content once."""
        kept = house.kept_attachment(self.file.sha256)
        if kept.exists():
            return kept
        kept.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with NamedTemporaryFile(dir=kept.parent, prefix=".part-", delete=False) as part:
            part.write(self.content)
            part.flush()
            os.fsync(part.fileno())
            Path(part.name).replace(kept)
        return kept


def attachment_of(spec: Path, file: BatchFile) -> Path | None:
    """The attachment that a batch file names, beside it; ``Refused`` for one that isn't there."""
    name = file.message.attachment
    if name is None:
        return None
    path = spec.parent / Path(name).expanduser()
    if not path.is_file():
        raise Refused(
            f"{spec.name}: message.attachment: there is no file {name} beside it: copy it there, or correct the name"
        )
    return path


def read(house: House, spec: Path, file: BatchFile) -> Attached | None:
    """A batch's attachment. ``Refused`` for one that isn't there, is too large, or is no file for patients."""
    path = attachment_of(spec, file)
    if path is None:
        return None
    most = house.settings.max_attachment_bytes
    if (size := path.stat().st_size) > most:
        raise Refused(f"{path.name}: it has {size:,} bytes, the limit is {most:,}: make it smaller")
    content = path.read_bytes()
    try:
        return Attached(Attachment.of(path.name, content), content)
    except NotAllowed as why:
        raise Refused(f"{path.name}: {why}") from None


def link_in(file: BatchFile, workspace: Workspace) -> str | None:
    """The address that ``{{ link }}`` stands for in a batch's message, its token still to come; none without a link.

    ``Refused`` for a message with a link, of a workspace that has nowhere for links to lead.
    """
    return _address(workspace, f"{file.batch}: its message") if file.message.carries_link else None


def link_in_template(name: str, fields: Collection[str], workspace: Workspace) -> str | None:
    """The same where there is no batch yet: a template that names ``{{ link }}`` is for messages that carry one."""
    return _address(workspace, f"template {name}") if links.FIELD in fields else None


def _address(workspace: Workspace, what: str) -> str:
    if workspace.links is None:
        raise Refused(
            f"{what} carries a link, but workspace {workspace.id} doesn't say where links lead: add "
            "links: {base_url: https://…} to its file"
        )
    return links.address(workspace.links.base_url)


def link_of(submitted: Submitted) -> str | None:
    """The same of a registered batch."""
    return link_in(submitted.file, submitted.workspace)


def shown(house: House, submitted: Submitted) -> dict[str, Any] | None:
    """What a person who reviews needs: the file, where the very one lies that patients get, and its hash."""
    file = submitted.attachment
    if file is None:
        return None
    return {
        "name": file.name,
        "type": file.label,
        "bytes": file.size,
        "path": str(house.kept_attachment(file.sha256)),
        "sha256": file.sha256,
    }
