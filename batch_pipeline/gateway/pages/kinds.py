"""What a link opens, by its kind: the one place in which that is chosen."""

from collections.abc import Mapping
from types import MappingProxyType

from batch_pipeline.gateway.pages import attachment, booking, questionnaire
from batch_pipeline.gateway.pages.visits import PageSet
from batch_pipeline.rules.links import Kind

KINDS: Mapping[Kind, PageSet] = MappingProxyType(
    {"attachment": attachment.PAGES, "questionnaire": questionnaire.PAGES, "self_book": booking.PAGES}
)
