"""From a workspace's settings and the environment to the provider that carries a channel's messages.

Secrets are read when a provider is made, and kept by it alone.
"""

from collections.abc import Callable, Mapping
from datetime import timedelta
from types import MappingProxyType
from typing import TypeVar

from batch_pipeline.providers._reference_tokens import ReferenceTokens
from batch_pipeline.providers.bounces import Bounces
from batch_pipeline.providers.govuk_notify import GovukNotify, GovukNotifyAccount
from batch_pipeline.providers.nhs_notify import NhsNotify
from batch_pipeline.providers.nhs_notify_account import NhsNotifyAccount
from batch_pipeline.providers.pds_account import PdsAccount
from batch_pipeline.providers.protocol import Provider
from batch_pipeline.providers.smtp import Smtp, SmtpAccount
from batch_pipeline.settings import GovukNotifyChoice, NhsNotifyChoice, SmtpChoice, Workspace, secret

# The names of the environment's variables, behind the prefix that a workspace gives.
NHS_NOTIFY_API_KEY = "NHS_NOTIFY_API_KEY"
NHS_NOTIFY_APPLICATION_ID = "NHS_NOTIFY_APPLICATION_ID"
NHS_NOTIFY_PRIVATE_KEY = "NHS_NOTIFY_PRIVATE_KEY"
PDS_API_KEY = "PDS_API_KEY"
PDS_PRIVATE_KEY = "PDS_PRIVATE_KEY"
GOVUK_NOTIFY_API_KEY = "GOVUK_NOTIFY_API_KEY"
GOVUK_NOTIFY_CALLBACK_TOKEN = "GOVUK_NOTIFY_CALLBACK_TOKEN"  # noqa: S105 - the variable's name
SMTP_PASSWORD = "SMTP_PASSWORD"  # noqa: S105 - the variable's name


def nhs_notify_account(workspace: Workspace) -> NhsNotifyAccount:
    """The workspace's application at NHS Notify. ``Refused`` names the setting or the variable that is missing."""
    chosen = _chosen(workspace.nhs_notify, workspace, "nhs_notify")
    return NhsNotifyAccount(
        base_url=chosen.base_url,
        api_key=secret(chosen.credentials, NHS_NOTIFY_API_KEY),
        key_id=chosen.key_id,
        private_key=secret(chosen.credentials, NHS_NOTIFY_PRIVATE_KEY),
        token_url=chosen.token_url,
        ods_code=workspace.ods_code if chosen.sends_ods_code else None,
        contact_details=chosen.sends_contact_details,
        billing_reference=chosen.billing_reference,
        routing_plans=chosen.routing_plans,
    )


def pds_account(workspace: Workspace) -> PdsAccount:
    """The workspace's application at PDS. ``Refused`` names the setting or the variable that is missing."""
    if workspace.pds is None:
        raise LookupError(f"workspace {workspace.id} has no group pds")
    return PdsAccount(
        base_url=workspace.pds.base_url,
        api_key=secret(workspace.pds.credentials, PDS_API_KEY),
        key_id=workspace.pds.key_id,
        private_key=secret(workspace.pds.credentials, PDS_PRIVATE_KEY),
        ods_code=workspace.ods_code,
        token_url=workspace.pds.token_url,
        per_second=workspace.pds.per_second,
    )


def _nhs_notify(workspace: Workspace, _reference_key: bytes) -> Provider:
    chosen = _chosen(workspace.nhs_notify, workspace, "nhs_notify")
    return NhsNotify(nhs_notify_account(workspace), timeout=timedelta(seconds=chosen.timeout))


def _govuk_notify(workspace: Workspace, _reference_key: bytes) -> Provider:
    chosen = _chosen(workspace.govuk_notify, workspace, "govuk_notify")
    account = GovukNotifyAccount(
        api_key=secret(chosen.credentials, GOVUK_NOTIFY_API_KEY),
        sms_template_id=chosen.sms_template_id,
        email_template_id=chosen.email_template_id,
        base_url=chosen.base_url,
        sms_body=chosen.sms_body,
        email_subject=chosen.email_subject,
        email_body=chosen.email_body,
        sms_sender_id=chosen.sms_sender_id,
        email_reply_to_id=chosen.email_reply_to_id,
    )
    return GovukNotify(account, timeout=timedelta(seconds=chosen.timeout))


def _smtp(workspace: Workspace, reference_key: bytes) -> Provider:
    chosen = _chosen(workspace.smtp, workspace, "smtp")
    account = SmtpAccount(
        host=chosen.host,
        port=chosen.port,
        from_address=chosen.from_address,
        from_name=chosen.from_name or workspace.name,
        bounce_address=chosen.bounce_address or chosen.from_address,
        message_id_domain=chosen.message_id_domain or chosen.from_address.rpartition("@")[2],
        reference_key=reference_key,
        security=chosen.security,
        username=chosen.username,
        password=secret(chosen.credentials, SMTP_PASSWORD) if chosen.username else None,
        verp=chosen.verp,
        ca_bundle=chosen.ca_bundle,
        timeout=timedelta(seconds=chosen.timeout),
        per_minute=chosen.per_minute,
        connections=chosen.connections,
    )
    return Smtp(account)


def bounces_of(workspace: Workspace, reference_key: bytes) -> Bounces | None:
    """The mailbox that a workspace's bounces come to, if it names one. Needs no password: nothing is sent by it."""
    chosen = workspace.smtp
    if chosen is None or chosen.bounces is None:
        return None
    return Bounces(chosen.bounces, ReferenceTokens(reference_key))


_Choice = TypeVar("_Choice", NhsNotifyChoice, GovukNotifyChoice, SmtpChoice)


def _chosen(choice: _Choice | None, workspace: Workspace, name: str) -> _Choice:
    if choice is None:  # a workspace file that names the provider without it is refused when it is read
        raise LookupError(f"workspace {workspace.id} has no group {name}")
    return choice


PROVIDERS: Mapping[str, Callable[[Workspace, bytes], Provider]] = MappingProxyType(
    {"nhs_notify": _nhs_notify, "govuk_notify": _govuk_notify, "smtp": _smtp}
)
"""By the name that a workspace file gives; the bytes are the key under which mail carries our references."""

TAKES_MARKDOWN = frozenset({"smtp"})
"""Those that set an email's Markdown themselves, and so are handed values that none can take for marks.

The others send their own layout, and get the text as it is.
"""
