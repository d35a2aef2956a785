"""Which path a patient's message takes: the channel table, kept as data and printed as it stands in the SPEC (2.4)."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import product
from typing import Literal, NamedTuple

Path = Literal["email", "nhs_app", "sms"]
PATHS: tuple[Path, ...] = ("email", "nhs_app", "sms")

Column = Literal["email", "app", "neither"]
HEADINGS: Mapping[Column, str] = {
    "email": "email in CSV",
    "app": "no email, has the NHS App",
    "neither": "neither",
}


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table: for these organisations and messages, the path by what is known of the patient."""

    organisation_type: str
    message_types: tuple[str, ...]
    paths: Mapping[Column, Path]


def _row(organisation_type: str, message_types: str, email: Path, app: Path, neither: Path) -> Row:
    return Row(organisation_type, tuple(message_types.split(", ")), {"email": email, "app": app, "neither": neither})


TABLE: tuple[Row, ...] = (
    _row("gp", "simple, questionnaire", "email", "nhs_app", "sms"),
    _row("gp", "self_book", "sms", "nhs_app", "sms"),
    _row("non_gp", "simple, questionnaire", "email", "sms", "sms"),
    _row("non_gp", "self_book", "sms", "sms", "sms"),
)
"""First match wins, down and then across."""

APP_NATIONS = frozenset({"england"})
"""Where the NHS App takes messages. Which organisations it takes them from stands in the table."""

EMAIL_MAY_BE_IGNORED = frozenset({"self_book"})
"""Messages for which the workspace's ``self_book_ignores_email`` lets the App go before an email."""

_ORGANISATION_LABELS = {"gp": "GP", "non_gp": "non-GP"}


class Choice(NamedTuple):
    """The path, and the cell of the table that chose it, for a person to read."""

    path: Path
    rule: str


def print_table() -> str:
    """The table in Markdown, as the SPEC has it."""
    lines = [
        f"| organisation | message | {' | '.join(HEADINGS.values())} |",
        "| --- " * (2 + len(HEADINGS)) + "|",
        *(
            f"| {_ORGANISATION_LABELS[row.organisation_type]} | {', '.join(row.message_types)} "
            f"| {' | '.join(row.paths[column] for column in HEADINGS)} |"
            for row in TABLE
        ),
    ]
    return "\n".join(lines)


def choose(
    organisation_type: str,
    nation: str,
    message_type: str,
    *,
    has_email: bool,
    has_app: bool,
    self_book_ignores_email: bool = False,
) -> Choice:
    """The path for one patient.

    ``has_email``: a usable email address. ``has_app``: an account with notifications on, by a snapshot that is not
    unknown. ``LookupError`` for an organisation or message that the table doesn't have.
    """
    row = _find(organisation_type, message_type)
    email_ignored = has_email and self_book_ignores_email and message_type in EMAIL_MAY_BE_IGNORED
    column: Column = "email" if has_email and not email_ignored else "app" if has_app else "neither"
    app_closed = row.paths[column] == "nhs_app" and nation not in APP_NATIONS
    path = row.paths["neither" if app_closed else column]
    notes = [
        *(["email ignored by the workspace's switch"] if email_ignored else []),
        *([f"the NHS App is closed in {nation}"] if app_closed else []),
    ]
    remark = f" ({', '.join(notes)})" if notes else ""
    return Choice(path, f"{organisation_type} · {message_type} · {HEADINGS[column]}{remark} → {path}")


def app_is_open(organisation_type: str, nation: str) -> bool:
    """Whether any message of this organisation can go by the NHS App."""
    rows = (row for row in TABLE if row.organisation_type == organisation_type)
    return nation in APP_NATIONS and any("nhs_app" in row.paths.values() for row in rows)


def goes_by_email(message_type: str) -> bool:
    """Whether any organisation's messages of this type go by email."""
    return any(message_type in row.message_types and "email" in row.paths.values() for row in TABLE)


def path_sql(
    organisation_type: str,
    nation: str,
    message_type: str,
    *,
    email: str,
    app: str,
    self_book_ignores_email: bool = False,
) -> tuple[str, str]:
    """``(path, rule)`` as SQL text values, equal to ``choose`` where the conditions ``email`` and ``app`` hold.

    A condition that is NULL doesn't hold. ``LookupError`` as ``choose``.
    """
    choices = {
        (has_email, has_app): choose(
            organisation_type,
            nation,
            message_type,
            has_email=has_email,
            has_app=has_app,
            self_book_ignores_email=self_book_ignores_email,
        )
        for has_email, has_app in product((True, False), repeat=2)
    }

    def case(part: Callable[[Choice], str]) -> str:
        texts = {known: "'" + part(choice).replace("'", "''") + "'" for known, choice in choices.items()}
        return (
            f"CASE WHEN ({email}) AND ({app}) THEN {texts[True, True]} WHEN ({email}) THEN {texts[True, False]} "
            f"WHEN ({app}) THEN {texts[False, True]} ELSE {texts[False, False]} END"
        )

    return case(lambda choice: choice.path), case(lambda choice: choice.rule)


def _find(organisation_type: str, message_type: str) -> Row:
    for row in TABLE:
        if row.organisation_type == organisation_type and message_type in row.message_types:
            return row
    raise LookupError(f"the path table has no line for organisation {organisation_type!r} and message {message_type!r}")
