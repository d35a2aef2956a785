"""The file that came with a message: a page that names it, and the file itself at ``/{token}/attachment``."""

import json
from typing import Any

from starlette.responses import FileResponse, Response

from batch_pipeline.gateway.pages.answers import FILE_HEADERS, page
from batch_pipeline.gateway.pages.opening import Busy
from batch_pipeline.gateway.pages.views import day_in_words
from batch_pipeline.gateway.pages.visits import PageSet, Visit
from batch_pipeline.ledger.links import Link
from batch_pipeline.rules.attachments import Attachment, size_in_words


async def show(visit: Visit, link: Link) -> Response:
    """The page that names the file."""
    file = attachment_of(link)
    if file is None:
        return visit.gone()
    sender = visit.sender(link)
    return page(
        visit.site.views.render(
            "attachment",
            sender=sender,
            token=visit.token,
            name=file.name,
            label=file.label,
            size=size_in_words(file.size),
            until=day_in_words(link.ends_at(visit.now), sender.zone),
        )
    )


async def hand_out(visit: Visit, link: Link) -> Response:
    """The file itself."""
    file = attachment_of(link)
    if file is None:
        return visit.gone()
    path = visit.site.of.kept_attachment(file.sha256)
    if not path.is_file():
        visit.told.fault = "the attachment isn't in the home"
        return visit.later(500)
    if link.downloaded_at is None and visit.request.method == "GET":
        try:
            await visit.site.opening.note_download(visit.token_hash, visit.now)
        except Busy as busy:  # no reason to keep the file from a patient
            visit.told.fault = str(busy)
    return FileResponse(path, headers=dict(FILE_HEADERS), media_type=file.media_type, filename=file.name)


def attachment_of(link: Link) -> Attachment | None:
    """The file that came with the link's own batch: no other can be reached by it."""
    known: dict[str, Any] | None = json.loads(link.spec).get("attachment")
    return Attachment(**known) if known else None


PAGES = PageSet({"": {"GET": show}, "attachment": {"GET": hand_out}})
