"""The plan that a person reviews: the figures, what stands in the way, and the hash an approval carries (SPEC 2.5)."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from batch_pipeline.planning.channels import NO_WORDS, Gap, digest_of, gaps, such
from batch_pipeline.planning.details import is_empty
from batch_pipeline.planning.duck import notes, scan, write
from batch_pipeline.planning.message import Message, Sample
from batch_pipeline.rules import costs, paths, policy, reasons
from batch_pipeline.rules import fragments as sms
from batch_pipeline.rules.conditional_text import MOST
from batch_pipeline.rules.rejections import REJECTIONS
from batch_pipeline.rules.reminders import text_of
from batch_pipeline.rules.text import meant


@dataclass(frozen=True)
class PlanFiles:
    """The tables a plan is made from."""

    cohort: Path
    patients: Path
    rejected_rows: Path
    duplicates: Path
    pds_details: Path
    non_contactable: Path
    channel_plan: Path


@dataclass(frozen=True)
class Instead:
    """Patients who go by SMS and might go by the App, and the fragments they take."""

    patients: int = 0
    fragments: int = 0

    def dearer_by(self, prices: costs.Prices) -> Decimal:
        """What they cost by SMS over what they would by the App."""
        return self.fragments * prices.sms_fragment - self.patients * prices.nhs_app


@dataclass(frozen=True)
class Snapshot:
    """The NHS App snapshot a plan was made with."""

    state: str
    """``current``, ``old`` (warns), ``unknown`` (counts for nothing) or ``none``: see ``policy.snapshot_state``."""
    as_of: str | None
    lost: Instead = field(default_factory=Instead)
    """Recipients by SMS who would go by the App if the snapshot were trusted."""
    switch: Instead = field(default_factory=Instead)
    """Those who would if the workspace's ``self_book_ignores_email`` were on."""

    def as_note(self) -> str:
        """For the notes of a table that was made with it."""
        return json.dumps({"state": self.state, "as_of": self.as_of})

    @classmethod
    def of(cls, table: Path) -> "Snapshot":
        """That which a table was made with."""
        return cls(**json.loads(notes(table)["snapshot"]))


@dataclass(frozen=True)
class Sender:
    """What of workspace and batch shows in a plan."""

    workspace: str
    message_type: str
    questionnaire: str | None
    message_key: str
    snomed: Sequence[str]
    providers: Mapping[str, str]
    prices: costs.Prices
    problems: Sequence[str]
    """What the batch file asks for and can't be done yet."""
    attachment: Mapping[str, Any] | None = None
    """The file that goes with it: what a person needs to look at that very file."""
    booking: Mapping[str, Any] | None = None
    """The slots that it offers: how many, with how many places, from when to when."""
    warnings: Sequence[str] = ()
    """What of workspace and batch a person should know."""


def draw_up(
    con: duckdb.DuckDBPyConnection,
    files: PlanFiles,
    *,
    sender: Sender,
    message: Message,
    snapshot: Snapshot,
    now: datetime,
) -> dict[str, Any]:
    """The plan's figures: counts, costs, samples, warnings and problems. JSON-ready, and no personal data."""
    counted = _counts(con, files)
    window = policy.fallback_window("nhs_app", sender.questionnaire, now)
    hours = window[1] / timedelta(hours=1) if window else 0
    messages, fragments = _load_of(con, files.channel_plan)
    problems = [
        *sender.problems,
        *message.link_problems,
        *_problems(con, files, message, sender.message_type),
    ]
    planned = costs.Sent(messages["email"], messages["nhs_app"], fragments["sms"])
    best, worst = costs.planned_cost(planned, fragments["nhs_app"], sender.prices)
    return {
        **counted,
        "fragments": {"best": fragments["sms"], "worst": fragments["sms"] + fragments["nhs_app"]},
        "cost": {"best": str(best), "worst": str(worst), "currency": sender.prices.currency},
        "waves": 1,
        "fallback_after_hours": hours,
        **_reminders(con, files.channel_plan, sender, message, messages, now),
        "finished_after_hours": policy.SMS_TIMEOUT / timedelta(hours=1) + (hours if messages["nhs_app"] else 0),
        "snapshot": {"state": snapshot.state, "as_of": snapshot.as_of},
        "providers": dict(sender.providers),
        "samples": _samples(message.sample(), counted["recipients"]),
        "message_key": sender.message_key,
        # Only where there are some: so that the hash of a plan without any is what it was before there were codes in plans.
        **({"snomed": list(sender.snomed)} if sender.snomed else {}),
        "message_type": sender.message_type,
        "workspace": sender.workspace,
        "warnings": [*_warnings(con, files, counted, snapshot, sender), *message.warnings],
        "problems": problems,
        "needs_person": snapshot.state == "unknown",
        **({} if sender.attachment is None else {"attachment": dict(sender.attachment)}),
        **({} if sender.booking is None else {"booking": dict(sender.booking)}),
        "digest": digest_of(files.channel_plan),
    }


def _reminders(
    con: duckdb.DuckDBPyConnection,
    channel_plan: Path,
    sender: Sender,
    message: Message,
    messages: Mapping[str, int],
    now: datetime,
) -> dict[str, Any]:
    """When who hasn't answered is reminded, and what that takes if nobody answers; nothing where nobody is reminded."""
    reminding = policy.reminder_policy(sender.questionnaire, now) if message.reminds else None
    if reminding is None:
        return {}
    # By the App to those alone who can't fall back; all others may have had a text by then.
    fragments, app_messages = con.sql(f"""
        SELECT coalesce(sum(reminder_fragments), 0)::BIGINT, count(*) FILTER (no_sms_fallback)
        FROM {scan(channel_plan)} WHERE NOT held_back
    """).fetchall()[0]
    times = len(reminding.days)
    most = costs.Sent(messages["email"] * times, app_messages * times, fragments * times)
    return {
        "reminders": {
            "policy": reminding.id,
            "days": list(reminding.days),
            "messages": sum(messages.values()) * times,
            "fragments": most.sms_fragments,
            "cost": str(costs.cost(most, sender.prices)),
        }
    }


def plan_hash(figures: Mapping[str, Any], *, spec_sha256: str, cohort_sha256: str) -> str:
    """SHA-256 over everything a person approves: the file, the batch file and every figure, patients' digests included."""
    approved = {"spec": spec_sha256, "cohort": cohort_sha256, "figures": figures}
    return hashlib.sha256(json.dumps(approved, sort_keys=True).encode()).hexdigest()


def _counts(con: duckdb.DuckDBPyConnection, files: PlanFiles) -> dict[str, Any]:
    def grouped(path: Path, column: str) -> dict[str, int]:
        return dict(con.sql(f"SELECT {column}, count(*) FROM {scan(path)} GROUP BY ALL ORDER BY ALL").fetchall())

    def count(path: Path, condition: str = "true") -> int:
        return con.sql(f"SELECT count(*) FILTER ({condition}) FROM {scan(path)}").fetchall()[0][0]

    why = grouped(files.non_contactable, "primary_reason")
    rejected = grouped(files.rejected_rows, "reason")
    by_path = grouped(files.channel_plan, "path")
    found_twice = count(files.pds_details, "duplicate_of IS NOT NULL")
    return {
        "lines": count(files.cohort),
        "patient_list": count(files.patients) - found_twice,
        "rejected": sum(rejected.values()),
        "rejected_by_reason": rejected,
        "duplicates": count(files.duplicates) + found_twice,
        "disagreeing_duplicates": count(files.duplicates, "disagrees"),
        "non_contactable": {code: why.get(code, 0) for code in reasons.CODES},
        "without_valid_mobile": sum(why.get(code, 0) for code in reasons.WITHOUT_VALID_MOBILE),
        "recipients": {path: by_path.get(path, 0) for path in paths.PATHS},
        "held_back": count(files.channel_plan, "held_back"),
        "no_sms_fallback": count(files.channel_plan, "no_sms_fallback"),
        "looked_up": _looked_up(con, files),
    }


def _looked_up(con: duckdb.DuckDBPyConnection, files: PlanFiles) -> dict[str, int]:
    """Of the look-ups: for how many patients, and what they came to; nothing where nobody was looked up."""
    if is_empty(files.pds_details):
        return {}
    patients, failed, superseded, duplicates = con.sql(f"""
        SELECT count(*), count(*) FILTER (outcome = 'failed'), count(current_number), count(duplicate_of)
        FROM {scan(files.pds_details)}
    """).fetchall()[0]
    filled = con.sql(f"SELECT count(*) FROM {scan(files.channel_plan)} WHERE ends_with(rule, ' from PDS)')").fetchall()
    return {
        "patients": patients,
        "filled": filled[0][0],
        "failed": failed,
        "superseded": superseded,
        "duplicates": duplicates,
    }


def _load_of(con: duckdb.DuckDBPyConnection, channel_plan: Path) -> tuple[dict[str, int], dict[str, int]]:
    """Messages and SMS fragments by path, of those who aren't held back."""
    rows = con.sql(f"""
        SELECT path, count(*), sum(fragments)::BIGINT FROM {scan(channel_plan)} WHERE NOT held_back GROUP BY path
    """).fetchall()
    found = {path: (messages, fragments) for path, messages, fragments in rows}
    return (
        {path: found.get(path, (0, 0))[0] for path in paths.PATHS},
        {path: found.get(path, (0, 0))[1] for path in paths.PATHS},
    )


def _problems(con: duckdb.DuckDBPyConnection, files: PlanFiles, message: Message, message_type: str) -> list[str]:
    """Why this plan can't be approved, each with the lines and the mend."""
    if message.unknown_fields:
        return [fields_unknown(message)]
    found = [_gap(gap, message) for gap in gaps(con, files.channel_plan, files.patients, files.cohort, message)]
    if found:
        return found
    limits = {
        f"the text is over {limit:,} characters by {_CHANNELS[path]}{_for_reminders(message, path)}": (
            f"{_LENGTHS[path]} > {limit}"
        )
        for path, most in sms.LIMITS.items()
        for limit in [most - (len(text_of(path, "")) if message.reminds else 0)]
    }
    if message_type == "self_book":
        most = sms.SELF_BOOK_FRAGMENTS
        limits[f"a self-book SMS may not exceed {most} fragments, but does"] = f"fragments > {most}"
    return [
        f"{what} for {_people(gap)}: shorten it"
        for what, condition in limits.items()
        if (gap := such(con, files.channel_plan, condition))
    ]


def _for_reminders(message: Message, path: str) -> str:
    return f", as a reminder of it begins with {text_of(path, '').strip()!r}," if message.reminds else ""


def _gap(gap: Gap, message: Message) -> str:
    if gap.what == NO_WORDS:
        return (
            f"the message has no words, or over {MOST:,} characters, for {_people(gap)}: give its conditions an {{% else %}}, "
            "or shorten it"
        )
    ask = f", ask for it with {{% if {gap.what} %}}" if message.may_ask_for(gap.what) else ""
    mend = f"fill it in{ask}, or take the field out of the message"
    return f"{{{{ {gap.what} }}}} has no value for {_people(gap)}: {mend}"


def fields_unknown(message: Message) -> str:
    """What to say of fields that neither the patient nor the cohort has."""
    names = ", ".join(f"{{{{ {name} }}}}{_hint(name, message)}" for name in message.unknown_fields)
    return f"the message names {names}, but the cohort has no such column: correct the field, or add the column"


def _hint(name: str, message: Message) -> str:
    near = meant(name, message.columns)
    return f" (did you mean {{{{ {near} }}}}?)" if near else ""


_CHANNELS = {"sms": "SMS", "nhs_app": "NHS App", "email": "email"}
_LENGTHS = {
    "sms": "sms_characters",
    "nhs_app": "path = 'nhs_app' AND characters",
    "email": "path = 'email' AND characters",
}


def _people(gap: Gap) -> str:
    lines = ", ".join(str(line) for line in gap.lines)
    more = ", …" if gap.patients > len(gap.lines) else ""
    return f"{gap.patients:,} {'patient' if gap.patients == 1 else 'patients'} ({'line' if gap.patients == 1 else 'lines'} {lines}{more})"


def _warnings(
    con: duckdb.DuckDBPyConnection, files: PlanFiles, counted: Mapping[str, Any], snapshot: Snapshot, sender: Sender
) -> list[str]:
    bad_emails = such(con, files.patients, "email_kind = 'bad'", of="patients")
    disagreeing = such(con, files.duplicates, "disagrees", of="duplicates")
    mobiles, emails = _sharing(con, files.patients, "mobile"), _sharing(con, files.patients, "email")
    said = (
        (counted["rejected"], "line is", "lines are", "unreadable or invalid: see rejected_rows.csv"),
        (mobiles, "patient shares", "patients share", "a mobile number with another: both are sent to"),
        (emails, "patient shares", "patients share", "an email address with another: both are sent to"),
        (counted["held_back"], "patient is", "patients are", "held back: they had this message in the last 30 days"),
        (counted["no_sms_fallback"], "patient goes", "patients go", "by the NHS App without a mobile to fall back to"),
    )
    warnings = [f"{n:,} {one if n == 1 else several} {rest}" for n, one, several, rest in said if n]
    warnings += sender.warnings
    if disagreeing:
        warnings.append(
            f"of {_people(disagreeing)} an earlier or later line has other contact details, and the first usable line was "
            "taken: see duplicates.csv"
        )
    if bad_emails:
        warnings.append(f"the email address of {_people(bad_emails)} is malformed and counts as absent")
    if failed := such(con, files.pds_details, "outcome = 'failed'", of="pds_details"):
        warnings.append(
            f"the details of {_people(failed)} had to be looked up and could not be: submit the batch again, and only "
            "they are asked for"
        )
    if superseded := such(con, files.pds_details, "current_number IS NOT NULL", of="pds_details"):
        warnings.append(f"the NHS number of {_people(superseded)} has been superseded: correct the record")
    if snapshot.state == "old":
        warnings.append(
            f"the NHS App snapshot of {snapshot.as_of} is older than {policy.SNAPSHOT_OLD_AFTER.days} days: refresh it"
        )
    if snapshot.state == "unknown" and snapshot.as_of is None:
        warnings.append(
            "no NHS App accounts were ever fetched: nobody goes by the App. Fetch them with `batch-pipeline look-up "
            f"nhs-app-accounts {sender.workspace}` and submit again, or have a person approve this"
        )
    elif snapshot.state == "unknown":
        warnings.append(
            f"the NHS App snapshot of {snapshot.as_of} is older than {policy.SNAPSHOT_UNKNOWN_AFTER.days} days and counts as unknown: "
            f"nobody goes by the App: {_by_sms(snapshot.lost, sender.prices)} more. "
            "Refresh the snapshot and submit again, or have a person approve this"
        )
    recipients = sum(counted["recipients"].values()) - counted["held_back"]
    if sender.booking is not None and sender.booking["places"] < recipients:
        warnings.append(
            f"the slots {sender.booking['name']} have {sender.booking['places']:,} places, and {recipients:,} patients are "
            "asked to book: add slots, or send in several batches"
        )
    if snapshot.switch.patients:
        warnings.append(
            f"the workspace's switch self_book_ignores_email is off: {_by_sms(snapshot.switch, sender.prices)} more"
        )
    return warnings


def _by_sms(instead: Instead, prices: costs.Prices) -> str:
    some = "1 patient who goes" if instead.patients == 1 else f"{instead.patients:,} patients who go"
    return f"{some} by SMS and could go by the App cost{'s' * (instead.patients == 1)} {instead.dearer_by(prices)} {prices.currency}"


def _sharing(con: duckdb.DuckDBPyConnection, patients: Path, column: str) -> int:
    """How many patients have the same in this column as somebody else."""
    return con.sql(f"""
        SELECT coalesce(sum(n), 0)::BIGINT FROM (
            SELECT count(*) AS n FROM {scan(patients)} WHERE {column} IS NOT NULL GROUP BY hash({column}) HAVING n > 1
        )
    """).fetchall()[0][0]


def _samples(sample: Sample, recipients: Mapping[str, int]) -> dict[str, dict[str, str]]:
    """The message as a made-up patient would get it, per channel of this plan and for the fallback."""
    text = sms.downgrade(sample.texts["sms"])
    shown = {
        "email": {"subject": sample.subject, "text": sample.texts["email"]},
        "nhs_app": {"text": sample.texts["nhs_app"]},
        "sms": {"text": text, "fragments": str(sms.sms_fragments(text).parts)},
    }
    used = {path for path, n in recipients.items() if n}
    return {path: sample for path, sample in shown.items() if path in used or (path == "sms" and "nhs_app" in used)}


def describe_rejections(by_reason: Mapping[str, int]) -> dict[str, int]:
    """Rejected lines by the reason's label, as people read it."""
    return {REJECTIONS[code].label: n for code, n in by_reason.items()}


def as_table(con: duckdb.DuckDBPyConnection, figures: Mapping[str, Any], out: Path) -> Path:
    """Writes the figures as ``figure, value`` rows; gives the path."""
    rows = pa.table({"figure": list(figures), "value": [json.dumps(value) for value in figures.values()]})
    con.register("figures", rows)
    write(con, "FROM figures", out)
    return out
