"""What people set: the environment (``Settings``), a workspace file and a batch file.

Formats: SPEC 2.0 (batch) and docs/settings.md. Unknown keys are errors; every refusal names file, line, key and
what is allowed. Nothing personal is ever in these files but a message's own words.
"""

import os
import re
from collections.abc import Callable, Mapping
from datetime import date, datetime, timedelta
from decimal import Decimal
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, ClassVar, Literal, Self
from zoneinfo import ZoneInfo, available_timezones

from pydantic import (
    AfterValidator,
    AliasChoices,
    BeforeValidator,
    ByteSize,
    Field,
    PlainSerializer,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_settings import BaseSettings, SettingsConfigDict

from batch_pipeline.errors import Refused
from batch_pipeline.home import Home
from batch_pipeline.rules import costs
from batch_pipeline.rules.circuit_breaker import STANDARD, BreakerRule
from batch_pipeline.yaml_files import Checked, describe, one_named, read_document, validated

OrganisationType = Literal["gp", "non_gp"]
Nation = Literal["england", "scotland", "wales", "northern_ireland"]
MessageType = Literal["simple", "questionnaire", "self_book"]
Approval = Literal["required", "auto"]


_SITE = re.compile(r"https://[a-z0-9-]+(\.[a-z0-9-]+)+(:[0-9]{1,5})?", re.ASCII)
_THIS_MACHINE = re.compile(r"http://(127\.0\.0\.1|localhost)(:[0-9]{1,5})?", re.ASCII)


def _site(url: str) -> str:
    """Without a path: each of its characters costs in every text."""
    url = url.strip().rstrip("/").lower()
    if not (_SITE.fullmatch(url) or _THIS_MACHINE.fullmatch(url)):
        raise ValueError(
            f'"{url[:80]}" isn\'t allowed; use https:// and a host name of your own, without a path, as in '
            "https://msg.surgery.example.org"
        )
    return url


def _required_text(text: str) -> str:
    if not (text := text.strip()):
        raise ValueError("it is empty; write something")
    return text


def _matching(pattern: str, mend: str) -> AfterValidator:
    compiled = re.compile(pattern, re.ASCII)

    def check(text: str) -> str:
        if not compiled.fullmatch(text):
            raise ValueError(f'"{text[:80]}" isn\'t allowed; {mend}')
        return text

    return AfterValidator(check)


def _beside_the_file(path: Path, info: ValidationInfo) -> Path:
    """Relative paths are relative to the file they stand in."""
    folder: Path | None = (info.context or {}).get("folder")
    path = path.expanduser()
    return folder / path if folder is not None else path


def _day_or_instant(value: Any) -> Any:
    """A day stays a day: ``2026-10-01`` isn't midnight."""
    if not isinstance(value, str):
        return value
    try:
        return date.fromisoformat(value) if len(value) == len("2026-10-01") else datetime.fromisoformat(value)
    except ValueError:
        raise ValueError(f'"{value}" isn\'t a day (2026-10-01) or a time (2026-10-01T09:00)') from None


def _instant(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    has_a_time = re.match(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d", value)
    try:
        return datetime.fromisoformat(value if has_a_time else "")
    except ValueError:
        raise ValueError(f'"{value}" isn\'t a time; write it as 2026-10-01T09:00') from None


_UNITS = MappingProxyType({"m": timedelta(minutes=1), "h": timedelta(hours=1), "d": timedelta(days=1)})


def _duration(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    found = re.fullmatch(r"([0-9]{1,5}) ?([mhd])", value.strip())
    if found is None or int(found[1]) == 0:
        raise ValueError(f'"{value}" isn\'t a length of time; write it as 30m, 1h or 3d')
    return int(found[1]) * _UNITS[found[2]]


@cache
def _zones() -> set[str]:
    """Every zone there is: looking through the disk for them takes longer than all the rest of a workspace."""
    return available_timezones()


def _as_written(duration: timedelta) -> str:
    unit = next(unit for unit in "dhm" if not duration % _UNITS[unit])
    return f"{duration // _UNITS[unit]}{unit}"


Text = Annotated[str, AfterValidator(_required_text)]
BatchId = Annotated[
    str, _matching("[a-z0-9][a-z0-9-]{0,62}", "use up to 63 of a-z, 0-9 and -, and begin with a letter or digit")
]
WorkspaceId = Annotated[
    str, _matching("[a-z0-9][a-z0-9_-]{0,62}", "use up to 63 of a-z, 0-9, - and _, and begin with a letter or digit")
]
TemplateName = WorkspaceId
OdsCode = Annotated[
    str,
    AfterValidator(str.upper),
    _matching("[A-Z0-9]{3,10}", "an ODS code has 3 to 10 letters and digits, such as A28095"),
]
Snomed = Annotated[str, _matching("[0-9]{6,18}", "a SNOMED CT code has 6 to 18 digits")]
"""As batches are kept with: whether it is the code of a concept is asked when one is submitted (``templates``)."""
MemorySize = Annotated[str, _matching(r"\d+(\.\d+)? ?[KMGT]i?B", "use a size such as 1GB")]
NearPath = Annotated[Path, AfterValidator(_beside_the_file)]
DayOrInstant = Annotated[date | datetime, BeforeValidator(_day_or_instant)]
Instant = Annotated[datetime, BeforeValidator(_instant)]
Duration = Annotated[timedelta, BeforeValidator(_duration), PlainSerializer(_as_written, return_type=str)]
Price = Annotated[Decimal, Field(ge=0, max_digits=12, decimal_places=6)]
Share = Annotated[float, Field(ge=0, le=1)]
Seconds = Annotated[float, Field(gt=0, le=600)]
EnvironmentPrefix = Annotated[
    str, _matching("[A-Z][A-Z0-9_]{0,62}", "use capitals, digits and _, as in BATCH_PIPELINE or RIVERSIDE")
]
_CREDENTIALS = "BATCH_PIPELINE"


class Settings(BaseSettings):
    """What the environment sets, as ``BATCH_PIPELINE_MAX_COHORT_BYTES=2GB``; the ledger also as ``LEDGER_URL``."""

    model_config = SettingsConfigDict(env_prefix="BATCH_PIPELINE_", frozen=True, env_ignore_empty=True, extra="ignore")

    ledger_url: str | None = Field(None, validation_alias=AliasChoices("LEDGER_URL", "BATCH_PIPELINE_LEDGER_URL"))
    """SQLAlchemy's address of the ledger; none: ``ledger.sqlite`` in the home."""
    claims: Path | None = None
    """The folder of the claims journal; none: ``claims`` in the home."""
    claims_days: int = Field(90, ge=1)
    """How long the journal remembers."""
    max_cohort_bytes: ByteSize = Field(ByteSize(4_000_000_000), gt=0)
    """A larger cohort file is refused before it is copied."""
    max_attachment_bytes: ByteSize = Field(ByteSize(10_000_000), gt=0)
    """A larger attachment is refused: patients fetch it by their phones."""
    duckdb_memory_limit: MemorySize = "1GB"
    """Per connection; above it DuckDB goes to disk."""
    duckdb_threads: int = Field(2, ge=1)
    simulator_timeout_seconds: float = Field(0.5, gt=0)
    simulator_chunk: int = Field(1000, ge=1)

    def __init__(self, **values: Any) -> None:
        """Reads the environment. Raises ``Refused`` naming the variable and what is allowed."""
        try:
            super().__init__(**values)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            name = str(first["loc"][0])
            variable = name if name in os.environ else f"BATCH_PIPELINE_{name.upper()}"
            first["loc"] = ()
            raise Refused(f"the environment variable {variable}: {describe(first, Settings)}") from None


class Prices(Checked):
    """What one costs, in the currency's main unit: an SMS fragment, an email, an NHS App message."""

    currency: Annotated[str, _matching("[A-Z]{3}", "use a three-letter code such as GBP")] = "GBP"
    sms_fragment: Price = Decimal(0)
    email: Price = Decimal(0)
    nhs_app: Price = Decimal(0)

    def as_prices(self) -> costs.Prices:
        """As the rules reckon with them."""
        return costs.Prices(self.currency, self.sms_fragment, self.email, self.nhs_app)


class Providers(Checked):
    """Which provider each channel's messages go to."""

    email: Literal["simulator", "nhs_notify", "govuk_notify", "smtp"] = "simulator"
    nhs_app: Literal["simulator", "nhs_notify"] = "simulator"
    sms: Literal["simulator", "nhs_notify", "govuk_notify"] = "simulator"

    @property
    def names(self) -> dict[str, str]:
        """By channel."""
        return {"email": self.email, "nhs_app": self.nhs_app, "sms": self.sms}


class NhsNotifyChoice(Checked):
    """An application at NHS Notify. Its keys come from the environment (``credentials``)."""

    key_id: Text = Field(description="the id (kid) under which the public key is registered")
    base_url: Text = "https://api.service.nhs.uk/comms"
    token_url: Text | None = None
    sends_ods_code: bool = False
    sends_contact_details: bool = False
    billing_reference: Text | None = None
    routing_plans: Mapping[Literal["email", "nhs_app", "sms"], Text] = Field(default_factory=dict)
    timeout: Seconds = 30.0
    credentials: EnvironmentPrefix = _CREDENTIALS


class GovukNotifyChoice(Checked):
    """A service at GOV.UK Notify. Its keys come from the environment (``credentials``)."""

    sms_template_id: Text | None = None
    email_template_id: Text | None = None
    sms_body: Text = "body"
    email_subject: Text = "subject"
    email_body: Text = "body"
    sms_sender_id: Text | None = None
    email_reply_to_id: Text | None = None
    base_url: Text = "https://api.notifications.service.gov.uk"
    timeout: Seconds = 30.0
    credentials: EnvironmentPrefix = _CREDENTIALS


class SmtpChoice(Checked):
    """A mail relay. Its password comes from the environment (``credentials``)."""

    host: Text = Field(description="the relay's name")
    port: Annotated[int, Field(ge=1, le=65535)] = 587
    security: Literal["starttls", "tls", "none"] = "starttls"
    username: Text | None = None
    from_address: Text = Field(description="a no-reply address, such as no-reply@surgery.example.org")
    from_name: Text | None = None
    bounce_address: Text | None = None
    verp: bool = False
    message_id_domain: Text | None = None
    bounces: NearPath | None = None
    ca_bundle: NearPath | None = None
    per_minute: Annotated[int, Field(ge=1)] | None = None
    connections: Annotated[int, Field(ge=1, le=50)] = 4
    timeout: Seconds = 60.0
    credentials: EnvironmentPrefix = _CREDENTIALS


class NhsAppAccounts(Checked):
    """Where the snapshot of who has the NHS App comes from.

    A CSV ``nhs_number,notifications_enabled``, and when it was made; or the service that it is fetched from each day.
    """

    path: NearPath | None = None
    as_of: DayOrInstant | None = None
    fetched_from: Literal["nhs_notify"] | None = None

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        given = {name for name in ("path", "as_of", "fetched_from") if getattr(self, name) is not None}
        if given not in ({"path", "as_of"}, {"fetched_from"}):
            raise ValueError(
                "give path, the CSV file, and as_of, the day or time it was made; or fetched_from: nhs_notify alone"
            )
        return self


class PdsChoice(Checked):
    """An application at the Personal Demographics Service. Its keys come from the environment (``credentials``)."""

    key_id: Text = Field(description="the id (kid) under which the public key is registered")
    base_url: Text = "https://api.service.nhs.uk"
    token_url: Text | None = None
    per_second: Annotated[int, Field(ge=1, le=1000)] = 5
    fresh_for: Duration = timedelta(days=7)
    timeout: Seconds = 30.0
    credentials: EnvironmentPrefix = _CREDENTIALS


class RecordChoice(Checked):
    """Where what was sent is saved to the record: a folder of files, or a FHIR server (the keys from the environment)."""

    folder: NearPath | None = None
    base_url: Text | None = None
    key_id: Text | None = None
    token_url: Text | None = None
    per_minute: Annotated[int, Field(ge=1, le=60_000)] = 30
    timeout: Seconds = 30.0
    credentials: EnvironmentPrefix = _CREDENTIALS

    @model_validator(mode="after")
    def _one_place(self) -> Self:
        if (self.folder is None) == (self.base_url is None):
            raise ValueError("give either folder, for files, or base_url, of a FHIR server")
        if self.base_url is None and self.model_fields_set - {"folder"}:
            raise ValueError("folder stands alone: the other keys go with base_url")
        if self.token_url is not None and self.key_id is None:
            raise ValueError("token_url goes with key_id; without them a bearer token from the environment is shown")
        return self


class OptOuts(Checked):
    """The workspace's opt-out list: a CSV ``nhs_number,opted_out_on``."""

    path: NearPath = Field(description="the CSV file with nhs_number,opted_out_on")


class OutcomeShares(Checked):
    """How often what becomes of one channel's messages; what is left to 1 is delivered (App: read)."""

    delivered: Share = 0
    read: Share = 0
    rejected: Share = 0
    failed: Share = 0
    silent: Share = 0

    @model_validator(mode="after")
    def _at_most_all(self) -> Self:
        if sum(self.model_dump().values()) > 1 + 1e-9:
            raise ValueError("the shares of one channel's outcomes come to more than 1")
        return self


class SimulatorShares(Checked):
    """How often the simulator does what, where its outcomes file doesn't name the patient."""

    email: OutcomeShares = OutcomeShares()
    nhs_app: OutcomeShares = OutcomeShares()
    sms: OutcomeShares = OutcomeShares()
    lost_answers: Share = 0
    repeated_receipts: Share = 0
    shuffled_receipts: Share = 0


class SimulatorChoice(Checked):
    """How the simulator behaves: exactly as ``outcomes`` says, else in ``shares`` drawn by ``seed``."""

    seed: int = 0
    outcomes: NearPath | None = None
    shares: SimulatorShares = SimulatorShares()


class CircuitBreaker(Checked):
    """When a batch is paused because a channel fails: beyond which share, of at least how many messages."""

    share: Share = STANDARD.share
    least: Annotated[int, Field(ge=1)] = STANDARD.least

    def as_rule(self) -> BreakerRule:
        """As the rules reckon with it."""
        return BreakerRule(self.share, self.least)


class LinksChoice(Checked):
    """Where patients' links lead: the site, on the organisation's own domain, that stands before the gateway."""

    base_url: Annotated[str, AfterValidator(_site)] = Field(description="such as https://msg.surgery.example.org")


def _webhook(url: str) -> str:
    if not (url.startswith("https://") or _THIS_MACHINE.match(url)):
        raise ValueError("it has to begin with https://")
    return url


class AlertsChoice(Checked):
    """Who at the practice is told at once of answers that can't wait: by an email through ``smtp``, or a webhook."""

    email: (
        Annotated[str, _matching(r"[^\s@]{1,64}@[A-Za-z0-9.-]{1,250}", "write it as duty@surgery.example.org")] | None
    ) = None
    webhook: Annotated[str, AfterValidator(_webhook)] | None = None
    credentials: EnvironmentPrefix | None = None
    timeout: Seconds = 30.0

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if (self.email is None) == (self.webhook is None):
            raise ValueError("give either email or webhook")
        if self.webhook is None and self.credentials is not None:
            raise ValueError("credentials goes with webhook: an email is sent with those of smtp")
        return self


class Workspace(Checked):
    """One organisation that sends, as ``workspaces/ID.yaml`` has it."""

    id: WorkspaceId = Field(description="the name by which batch files call this workspace")
    name: Text = Field(description="the organisation's name as patients know it")
    ods_code: OdsCode = Field(description="the organisation's ODS code")
    organisation_type: OrganisationType = Field(description="gp or non_gp")
    nation: Nation = Field(description="england, scotland, wales or northern_ireland")
    timezone: str = "Europe/London"
    exclude_likely_to_fail: bool = False
    self_book_ignores_email: bool = False
    prices: Prices = Prices()
    providers: Providers = Providers()
    nhs_notify: NhsNotifyChoice | None = None
    govuk_notify: GovukNotifyChoice | None = None
    smtp: SmtpChoice | None = None
    nhs_app_accounts: NhsAppAccounts | None = None
    pds: PdsChoice | None = None
    opt_outs: OptOuts | None = None
    record: RecordChoice | None = None
    circuit_breaker: CircuitBreaker = CircuitBreaker()
    links: LinksChoice | None = None
    alerts: AlertsChoice | None = None
    simulator: SimulatorChoice = SimulatorChoice()

    @field_validator("timezone")
    @classmethod
    def _known_zone(cls, zone: str) -> str:
        if zone not in _zones():
            raise ValueError(f'"{zone[:60]}" isn\'t a time zone; use a name such as Europe/London')
        return zone

    @model_validator(mode="after")
    def _every_provider_is_described(self) -> Self:
        for channel, name in self.providers.names.items():
            if getattr(self, name) is None:
                raise ValueError(f"providers: {channel} goes by {name}, but there is no group {name}: add one")
        if self.alerts is not None and self.alerts.email is not None and self.smtp is None:
            raise ValueError("alerts: they go by email, but there is no group smtp: add one")
        if self.fetches_app_accounts and self.nhs_notify is None:
            raise ValueError("nhs_app_accounts: fetched from nhs_notify, but there is no group nhs_notify: add one")
        return self

    @model_validator(mode="after")
    def _links_lead_to_where_patients_are(self) -> Self:
        real = {name for name in self.providers.names.values() if name != "simulator"}
        if real and self.links is not None and self.links.base_url.startswith("http:"):
            raise ValueError(
                f"links: {self.links.base_url} is this machine, for a trial with the simulator, and {min(real)} sends to "
                "patients: give the site that they can reach"
            )
        return self

    @property
    def fetches_app_accounts(self) -> bool:
        """Whether the snapshot of NHS App accounts is fetched each day, and is no file of the workspace's."""
        return self.nhs_app_accounts is not None and self.nhs_app_accounts.fetched_from is not None

    @property
    def zone(self) -> ZoneInfo:
        """The workspace's time zone."""
        return ZoneInfo(self.timezone)


class Stagger(Checked):
    """A batch in waves: over ``days``, or ``size`` patients ``every`` so often."""

    days: Annotated[int, Field(ge=1)] | None = None
    size: Annotated[int, Field(ge=1)] | None = None
    every: Duration | None = None

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        given = {name for name in ("days", "size", "every") if getattr(self, name) is not None}
        if given not in ({"days"}, {"size", "every"}):
            raise ValueError("give either days, or size and every")
        return self


class MessageChoice(Checked):
    """What a batch sends: own words or a template's, and what comes with them."""

    only_for: ClassVar[Mapping[str, MessageType]] = MappingProxyType(
        {
            "questionnaire": "questionnaire",
            "saves_responses": "questionnaire",
            "reminders": "questionnaire",
            "booking": "self_book",
            "decline_snomed": "self_book",
        }
    )
    """Keys that go with one type of message only."""

    type: MessageType = Field(description="simple, questionnaire or self_book")
    body: Text | None = None
    template: TemplateName | None = None
    subject: Text | None = None
    questionnaire: WorkspaceId | None = None
    saves_responses: bool = False
    reminders: bool | None = Field(None, description="false: who hasn't answered isn't reminded")
    booking: WorkspaceId | None = None
    decline_snomed: Snomed | None = None
    attachment: Text | None = None
    snomed: tuple[Snomed, ...] = ()

    @property
    def carries_link(self) -> bool:
        """Whether each message has the patient's own address in it."""
        return self.attachment is not None or self.booking is not None or self.type == "questionnaire"

    @property
    def reminds(self) -> bool:
        """Whether patients who haven't answered are reminded."""
        return self.type == "questionnaire" and self.reminders is not False

    @model_validator(mode="after")
    def _keys_that_go_together(self) -> Self:
        if (self.body is None) == (self.template is None):
            raise ValueError("give either body or template" + (", not both" if self.body else ""))
        for key, kind in self.only_for.items():
            if getattr(self, key) and self.type != kind:
                raise ValueError(f"{key} goes with type {kind} only, and this is {self.type}")
        if self.type == "questionnaire" and not self.questionnaire:
            raise ValueError("a message of type questionnaire needs questionnaire: bp_4_day, bp_7_day or another id")
        if self.decline_snomed and not self.booking:
            raise ValueError("decline_snomed goes with booking: without one nobody can decline")
        return self


class BatchFile(Checked):
    """One cohort, one message, and how to send it (SPEC 2.0)."""

    batch: BatchId = Field(description="the batch's name, such as flu-2026-10")
    workspace: WorkspaceId = Field(description="the id of the workspace that sends")
    cohort: Text = Field(description="the CSV file of patients, beside this file")
    message: MessageChoice = Field(description="type, and body or template")
    save_to_record: bool = True
    approval: Approval = "required"
    allow_repeat: bool = False
    send_at: Instant | None = None
    stagger: Stagger | None = None
    expires_after: Duration | None = None

    def cohort_path(self, batch_file: Path) -> Path:
        """Where the cohort is, for a batch file at that path."""
        return batch_file.parent / Path(self.cohort).expanduser()


_NOT_YET: Mapping[str, Callable[[BatchFile], object]] = MappingProxyType(
    {
        "send_at": lambda batch: batch.send_at,
        "stagger": lambda batch: batch.stagger,
        "expires_after": lambda batch: batch.expires_after,
    }
)
"""Keys that would change what a patient gets, or when, and that nothing carries out yet."""


def not_yet(batch: BatchFile) -> list[str]:
    """A sentence for each key that the batch sets and this version can't carry out: it is refused at review."""
    mend = "is not yet carried out by this version: take it out of the batch file"
    return [f"{key} {mend}" for key, of in _NOT_YET.items() if of(batch)]


def secret(prefix: str, name: str) -> str:
    """A key or password from the environment variable ``PREFIX_NAME``, or from the file that ``PREFIX_NAME_FILE`` names.

    ``Refused`` where there is neither: it names the variable, and never what is in one.
    """
    variable = f"{prefix}_{name}"
    if value := os.environ.get(variable, "").strip():
        return value
    path = os.environ.get(f"{variable}_FILE", "")
    if not path:
        raise Refused(
            f"the environment variable {variable} isn't set: set it, or {variable}_FILE to a file that holds it"
        )
    try:
        value = Path(path).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        value = ""
    if not value:
        raise Refused(f"{variable}_FILE: {path} can't be read, or is empty: name the file that holds it")
    return value


def load_batch_file(path: Path) -> BatchFile:
    """The batch file at a path. Raises ``Refused``."""
    return validated(BatchFile, read_document(path))


def load_workspace(home: Home, workspace_id: str) -> Workspace:
    """The workspace of that id, whatever its file is called. Raises ``Refused``."""
    document = one_named(home.workspaces, (".yaml", ".yml"), "id", workspace_id, what="workspace", read=read_document)
    return validated(Workspace, document, context={"folder": home.workspaces.absolute()})


def load_workspaces(home: Home) -> list[Workspace]:
    """Every workspace of a home, by the names of their files. Raises ``Refused`` for the first faulty one."""
    return [_workspace_at(home, path) for path in _workspace_files(home)]


def _workspace_files(home: Home) -> list[Path]:
    return sorted(home.workspaces.glob("[!.]*.y*ml"))


def readable_workspaces(home: Home) -> tuple[list[Workspace], list[str]]:
    """Every workspace of a home that can be read, and what is wrong with the others: one stops no other's work."""
    found, faults = list[Workspace](), list[str]()
    for path in _workspace_files(home):
        try:
            found.append(_workspace_at(home, path))
        except Refused as fault:
            faults.append(str(fault))
    return found, faults


def _workspace_at(home: Home, path: Path) -> Workspace:
    return validated(Workspace, read_document(path), context={"folder": home.workspaces.absolute()})


_ACCOUNT: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "nhs_notify": ("base_url", "token_url", "key_id"),
        "govuk_notify": ("base_url",),
        "smtp": ("host", "port", "username"),
        "record": ("base_url", "token_url", "key_id"),
    }
)
"""What, beside its keys, makes an account; a relay without a user name needs no key, nor does a folder."""


def refuse_mixed_accounts(home: Home) -> None:
    """``Refused`` where two workspaces take their keys from the same variables, for what can't be one account.

    Workspaces may well share an account. But a key that is meant for one must not go to another's server, least of all
    because nobody thought of ``credentials``. Faulty files are told of by whoever needs them.
    """
    known: dict[tuple[str, str], tuple[str, dict[str, Any]]] = {}
    for path in _workspace_files(home):
        try:
            workspace = _workspace_at(home, path)
        except Refused:
            continue
        _refuse_another(known, path.name, workspace)


def _needs_no_key(choice: Checked) -> bool:
    return (isinstance(choice, SmtpChoice) and choice.username is None) or (
        isinstance(choice, RecordChoice) and choice.base_url is None
    )


def _refuse_another(known: dict[tuple[str, str], tuple[str, dict[str, Any]]], file: str, workspace: Workspace) -> None:
    for group, names in _ACCOUNT.items():
        choice: NhsNotifyChoice | GovukNotifyChoice | SmtpChoice | RecordChoice | None = getattr(workspace, group)
        if choice is None or _needs_no_key(choice):
            continue
        account = {name: getattr(choice, name) for name in names}
        other, its = known.setdefault((group, choice.credentials), (file, account))
        if differing := [name for name in names if account[name] != its[name]]:
            raise Refused(
                f"{other} and {file}: both take their keys for {group} from {choice.credentials}_…, but differ in "
                f"{group}.{differing[0]}: give one of them credentials of its own, or both the same account"
            )
