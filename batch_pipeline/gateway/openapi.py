"""The gateway's own description: exact about every status, so that a fuzzer can hold it to its word."""

from collections.abc import Mapping
from typing import Any

from batch_pipeline import __name__ as _title

_ERROR: Mapping[str, Any] = {
    "type": "object",
    "properties": {"error": {"type": "string"}},
    "required": ["error"],
    "additionalProperties": False,
}
_REFUSALS: Mapping[str, str] = {
    "400": "Genuine, but the body can't be read; nothing is stored",
    "401": "The credential is missing or wrong; nothing is stored",
    "403": "The body isn't what the caller signed; nothing is stored",
    "404": "No such path, workspace or provider",
    "405": "Only POST",
    "408": "The body wasn't there in time; nothing is stored",
    "413": "The body is too large; nothing is stored",
    "415": "A Content-Encoding isn't taken; nothing is stored",
    "429": "Too much waits to be stored: send it again after Retry-After",
    "500": "A fault of the gateway's; nothing is stored",
    "503": "The ledger can't be written now: send it again after Retry-After",
}
_HEADERS: Mapping[str, str] = {"401": "WWW-Authenticate", "405": "Allow", "429": "Retry-After", "503": "Retry-After"}


def _object(**properties: Mapping[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(properties)}


_TEXT: Mapping[str, Any] = {"type": "string", "minLength": 1}
_TIME: Mapping[str, Any] = {"type": "string", "format": "date-time"}
_NHS_NOTIFY = _object(
    data={
        "type": "array",
        "items": _object(
            type={"enum": ["MessageStatus", "ChannelStatus"]},
            attributes=_object(messageReference=_TEXT, timestamp=_TIME),
            meta=_object(idempotencyKey=_TEXT),
        ),
    }
)
"""As far as it is read; both providers' bodies hold more, and may come to hold more yet (PROVIDERS 1 and 3)."""
_GOVUK_NOTIFY = _object(id={"type": "string", "format": "uuid"}, reference=_TEXT, status=_TEXT, completed_at=_TIME)


def document() -> dict[str, Any]:
    """OpenAPI 3.1."""
    return {
        "openapi": "3.1.0",
        "info": {"title": f"{_title} gateway", "version": "1"},
        "paths": {
            "/callbacks/{workspace}/nhs-notify": _callback(
                "NHS Notify's message and channel statuses", [{"apiKey": [], "signature": []}], _NHS_NOTIFY
            ),
            "/callbacks/{workspace}/govuk-notify": _callback(
                "GOV.UK Notify's delivery receipts", [{"bearer": []}], _GOVUK_NOTIFY
            ),
            "/healthz": {"get": _watch("The process lives", "alive")},
            "/readyz": {"get": _watch("The ledger answers, at this software's version", "ready", "503")},
            "/openapi.json": {"get": _get("This document", {"type": "object", "required": ["openapi", "paths"]})},
        },
        "components": {
            "securitySchemes": {
                "apiKey": {"type": "apiKey", "in": "header", "name": "x-api-key"},
                "signature": {"type": "apiKey", "in": "header", "name": "x-hmac-sha256-signature"},
                "bearer": {"type": "http", "scheme": "bearer"},
            }
        },
    }


def _callback(summary: str, security: list[dict[str, list[str]]], body: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "parameters": [{"name": "workspace", "in": "path", "required": True, "schema": {"type": "string"}}],
        "post": {
            "summary": summary,
            "security": security,
            "requestBody": {"required": True, "content": {"application/json": {"schema": body}}},
            "responses": {
                "202": _answer("Stored, now or before", _one("receipts", {"type": "integer", "minimum": 0})),
                **{status: _refusal(status) for status in _REFUSALS},
            },
        },
    }


def _watch(summary: str, status: str, *refusals: str) -> dict[str, Any]:
    return _get(summary, _one("status", {"const": status}), *refusals)


def _get(summary: str, schema: Mapping[str, Any], *refusals: str) -> dict[str, Any]:
    found = {status: _refusal(status) for status in ("405", "500", *refusals)}
    return {"summary": summary, "responses": {"200": _answer(summary, schema), **found}}


def _refusal(status: str) -> dict[str, Any]:
    answer = _answer(_REFUSALS[status], _ERROR)
    if status in _HEADERS:
        answer["headers"][_HEADERS[status]] = _HEADER
    return answer


_HEADER: Mapping[str, Any] = {"required": True, "schema": {"type": "string"}}


def _answer(description: str, schema: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "description": description,
        "headers": {"X-Request-ID": _HEADER},
        "content": {"application/json": {"schema": schema}},
    }


def _one(name: str, schema: Mapping[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": {name: schema}, "required": [name], "additionalProperties": False}
