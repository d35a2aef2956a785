"""What NHS Notify's answers to a batch of messages mean: the table of PROVIDERS.md 1, and nothing else."""

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic.alias_generators import to_camel

from batch_pipeline.providers.bounded_http import Reply
from batch_pipeline.providers.protocol import (
    Answer,
    ChunkRefused,
    ChunkTooLarge,
    NotTaken,
    OutcomeUnknown,
    ProviderStopped,
    RefusedMessage,
)

QUOTA_PAUSE = timedelta(seconds=60)
"""Where a 429 doesn't say how long: the quota is counted by the minute."""
TOO_EARLY_PAUSE = timedelta(seconds=300)
_LONGEST_PAUSE = timedelta(days=1)

_ROW = re.compile(r"/data/attributes/messages/([0-9]{1,6})((?:/.*)?)", re.ASCII)
_CODE = re.compile(r"[A-Z][A-Z0-9_]{0,63}", re.ASCII)
_BATCH_REFERENCE = "/messageBatchReference"
_NO_CODE = "without a code"

# What these say holds of every message that we would ever send, so it would fail the whole cohort, row by row.
_OF_THE_ACCOUNT = ("CM_ODS_CODE_REQUIRED", "CM_CANNOT_SET_")
_ALIKE_IN_ALL = re.compile(
    r"(/data/attributes/messages/[0-9]{1,6}/(originator|billingReference)|/data/attributes/routingPlanId)(/.*)?"
)
"""What we write the same for every message."""
_MOST_ERRORS = 100
"""That an answer tells of."""
_FEW = 3
"""Messages that may well have one fault by chance, and be all there are."""
_MENDS: Mapping[int, str] = {
    400: (
        "check nhs_notify.sends_ods_code, nhs_notify.sends_contact_details, nhs_notify.billing_reference and"
        " nhs_notify.routing_plans"
    ),
    401: "check the API key and nhs_notify.key_id",
    403: "ask NHS Notify what this application may do",
    404: "check nhs_notify.base_url and nhs_notify.routing_plans",
    422: "ask NHS Notify what it means",
    500: "the routing plan's templates are at fault: check nhs_notify.routing_plans, or ask NHS Notify",
}


class _Model(BaseModel):
    model_config = ConfigDict(alias_generator=to_camel)


class _Source(_Model):
    pointer: str | None = None


class _Error(_Model):
    code: str = ""
    source: _Source | None = None

    @property
    def pointer(self) -> str:
        return (self.source and self.source.pointer) or ""


class _Errors(_Model):
    errors: list[_Error]


class _Taken(_Model):
    message_reference: str
    id: str


class _TakenAttributes(_Model):
    message_batch_reference: str
    messages: list[_Taken]


class _TakenBatch(_Model):
    type: str
    attributes: _TakenAttributes


class _Created(_Model):
    data: _TakenBatch


def read(reply: Reply, chunk_reference: str, references: Sequence[str], wall: Callable[[], datetime]) -> Answer:
    """The answer to the chunk of these messages, in their order; or the exception that its status and codes mean.

    ``wall`` is the real time, for a ``Retry-After`` that is a date.
    """
    errors = _errors(reply.body)
    match reply.status:
        case 201:
            return _read_created(reply.body, chunk_reference, references)
        case 400:
            raise _refusal(errors, references)
        case 401 | 403 | 404:
            raise _stop(reply.status, errors)
        case 413:
            raise ChunkTooLarge
        case 422:
            return _read_unprocessable(errors)
        case 425:
            raise OutcomeUnknown(_says(425, errors), retry_after(reply, wall, TOO_EARLY_PAUSE))
        case 429:
            raise NotTaken(_says(429, errors), retry_after(reply, wall, QUOTA_PAUSE))
        case 500 if any(_is_of_templates(error.code) for error in errors):
            raise _stop(500, errors)
        case _:
            raise OutcomeUnknown(_says(reply.status, errors), retry_after(reply, wall, timedelta(0)))


def retry_after(reply: Reply, wall: Callable[[], datetime], otherwise: timedelta) -> timedelta:
    """How long the service wants to be left alone: seconds or a date, of at most a day."""
    given = reply.headers.get("Retry-After", "").strip()
    if re.fullmatch(r"[0-9]{1,9}", given):
        return min(timedelta(seconds=int(given)), _LONGEST_PAUSE)
    try:
        moment = parsedate_to_datetime(given)
    except ValueError:
        return otherwise
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return min(max(moment - wall(), timedelta(0)), _LONGEST_PAUSE)


def _read_created(body: bytes, chunk_reference: str, references: Sequence[str]) -> Answer:
    try:
        batch = _Created.model_validate_json(body).data
    except ValidationError:
        raise OutcomeUnknown("NHS Notify answered 201 with something that isn't a batch") from None
    ours = batch.type == "MessageBatch" and batch.attributes.message_batch_reference == chunk_reference
    if not ours or Counter(taken.message_reference for taken in batch.attributes.messages) != Counter(references):
        raise OutcomeUnknown("NHS Notify answered 201 for another batch, or for other messages, than were sent")
    return Answer()


def _refusal(errors: Sequence[_Error], references: Sequence[str]) -> ChunkRefused | ProviderStopped:
    codes: dict[int, str] = {}
    for error in errors:
        row = _ROW.fullmatch(error.pointer)
        if row is not None and int(row[1]) < len(references):
            codes.setdefault(int(row[1]), error.code if _CODE.fullmatch(error.code) else "CM_UNKNOWN")
    if not codes or any(_is_of_the_account(error) for error in errors) or _is_of_all(errors, len(references)):
        return _stop(400, errors)
    return ChunkRefused([RefusedMessage(references[row], code) for row, code in sorted(codes.items())])


def _is_of_the_account(error: _Error) -> bool:
    return error.code.startswith(_OF_THE_ACCOUNT) or _ALIKE_IN_ALL.fullmatch(error.pointer) is not None


def _is_of_all(errors: Sequence[_Error], messages: int) -> bool:
    """Whether each message has the same fault, so far as the answer tells of them: then the fault isn't the messages'.

    As many errors as an answer holds may also be a hundred bad rows among thousands, which are to be failed: so they
    have to lie close together.
    """
    found = [_ROW.fullmatch(error.pointer) for error in errors]
    rows = {int(row[1]) for row in found if row is not None}
    alike = len({(error.code, row[2] if row else None) for error, row in zip(errors, found, strict=True)}) == 1
    if not alike or len(rows) <= _FEW:
        return False
    return len(rows) >= messages or (len(rows) >= _MOST_ERRORS and max(rows) < 2 * len(rows))


def _read_unprocessable(errors: Sequence[_Error]) -> Answer:
    """Accepted before, if that is all it says. What can't be read, or says so among others, may mean it as well."""
    duplicates = [
        error for error in errors if error.code == "CM_DUPLICATE_REQUEST" and error.pointer.endswith(_BATCH_REFERENCE)
    ]
    if errors and len(duplicates) == len(errors):
        return Answer()
    if errors and not duplicates:
        raise _stop(422, errors)
    raise OutcomeUnknown(_says(422, errors))


def _is_of_templates(code: str) -> bool:
    return code == "CM_MISSING_ROUTING_PLAN_TEMPLATE" or code.endswith("DUPLICATE_TEMPLATES")


def _stop(status: int, errors: Sequence[_Error]) -> ProviderStopped:
    return ProviderStopped(f"{_says(status, errors)}: {_MENDS[status]}")


def _says(status: int, errors: Sequence[_Error]) -> str:
    """The status and the codes. Never the service's own words, which may quote what we sent."""
    codes = sorted({error.code for error in errors if _CODE.fullmatch(error.code)})
    return f"NHS Notify answered {status} ({', '.join(codes[:5]) or _NO_CODE})"


def _errors(body: bytes) -> list[_Error]:
    """Empty where the body isn't the service's own: a gateway on the way answers in its own manner."""
    try:
        return _Errors.model_validate_json(body).errors
    except ValidationError:
        return []
