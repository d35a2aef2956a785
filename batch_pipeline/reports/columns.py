"""What stands in each report: file, heading and meaning of every column, in order. ``docs/reports.md`` shows these tables.

New columns go to the end: people have spreadsheets that count on the order.
"""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Column:
    """One column: its name in the rows' SQL, its heading in the file, and what stands in it."""

    name: str
    heading: str
    description: str


@dataclass(frozen=True, slots=True)
class Report:
    """One CSV file of a batch."""

    file: str
    title: str
    columns: tuple[Column, ...]


_LINE = Column("line", "Line", "The row of the cohort file, as a spreadsheet counts it")
_NHS_NUMBER = Column("nhs_number", "NHS number", "Ten digits")
_NAME = Column("patient_name", "Name", "As in the cohort file")
_DATE_OF_BIRTH = Column("date_of_birth", "Date of birth", "Year-month-day")

NON_CONTACTABLE = Report(
    "non_contactable.csv",
    "Patients who can't be contacted",
    (
        _LINE,
        _NHS_NUMBER,
        _NAME,
        _DATE_OF_BIRTH,
        Column("primary_reason", "Primary reason", "The reason that comes first; a patient is counted under this one"),
        Column("all_reasons", "All reasons", "Every reason that holds, the primary one first, between semicolons"),
        Column("detail", "Detail", "What exactly is wrong, where more is known"),
        Column("remedy", "Remedy", "What to do about the primary reason"),
        Column("reason_codes", "Reason codes", "All reasons as codes, for programs, between semicolons"),
    ),
)

REJECTED_ROWS = Report(
    "rejected_rows.csv",
    "Lines that could not be used",
    (
        _LINE,
        Column("nhs_number", "NHS number", "As typed in the cohort file; empty when the line can't be read"),
        Column("patient_name", "Name", "As typed"),
        Column("date_of_birth", "Date of birth", "As typed"),
        Column("reason", "Reason", "Why the line was rejected"),
        Column("detail", "Detail", "What exactly is wrong, where more is known"),
        Column("remedy", "Remedy", "How to mend the line"),
        Column("reason_code", "Reason code", "The reason as a code, for programs"),
    ),
)

DUPLICATES = Report(
    "duplicates.csv",
    "Further lines of patients who are already in the list",
    (
        _LINE,
        Column(
            "kept_line",
            "Line that stays",
            "The line of the same patient that is used: the first with a usable contact detail",
        ),
        Column(
            "disagrees",
            "Details differ",
            "yes when its contact details are others than those of the line that stays, else no",
        ),
    ),
)

FOLLOW_UP = Report(
    "follow_up.csv",
    "Patients to look after",
    (
        _LINE,
        _NHS_NUMBER,
        _NAME,
        _DATE_OF_BIRTH,
        Column("sent_by", "Sent by", "Email, NHS App or SMS: how the message went first"),
        Column("happened", "What happened", "Why the patient is in this list"),
        Column("detail", "Detail", "What the provider said, and why no text followed"),
        Column("remedy", "What to do", "The next step for a person"),
        Column("since", "Since", "When it came to that, workspace time"),
        Column("provider", "Provider", "Who carried the messages; `simulator` means that nothing was really sent"),
        Column(
            "code", "Code", "What happened, as a code: unconfirmed, unread_no_fallback, failed, unread or link_locked"
        ),
    ),
)

_TIME = "workspace time"

OUTCOMES = Report(
    "outcomes.csv",
    "What became of every recipient",
    (
        _LINE,
        _NHS_NUMBER,
        Column("path", "Path", "email, nhs_app or sms"),
        Column("rule", "Rule", "The cell of the path table that chose it"),
        Column("snapshot", "Snapshot", "Date of the list of NHS App users it was chosen from; empty without one"),
        Column("provider", "Provider", "Who carried the message; `simulator` means that nothing was really sent"),
        Column(
            "outcome",
            "Outcome",
            "emailed, delivered, failed, awaiting, cancelled, expired, unconfirmed or held_back: counted as in the figures",
        ),
        Column("ended", "Ended", "yes when nothing more is to come, else no"),
        Column(
            "state",
            "State",
            "Of the first message: queued, sending, accepted, read, delivered, failed, timed_out, unconfirmed, held_back, cancelled or expired",
        ),
        Column("queued_at", "Queued", f"When it was put in the outbox, {_TIME}"),
        Column("begun_at", "Begun", f"When sending began, {_TIME}"),
        Column("accepted_at", "Accepted", f"When the provider took it, {_TIME}"),
        Column("delivered_at", "Delivered", f"First delivery confirmation, {_TIME}"),
        Column("read_at", "Read", f"First read in the NHS App, {_TIME}"),
        Column("failed_at", "Failed", f"First report of a failure, {_TIME}"),
        Column("failure", "Failure", "permanent, temporary, technical, rejected or refused"),
        Column("failure_code", "Failure code", "The provider's own code"),
        Column("timed_out_at", "Timed out", f"When it was given up for want of any receipt, {_TIME}"),
        Column("policy", "Fallback policy", "Which fallback window applies"),
        Column("fallback_provider", "Fallback provider", "Who carried the text that followed"),
        Column("fallback_state", "Fallback state", "As State, of the text that followed; empty when none did"),
        Column("fallback_queued_at", "Fallback queued", f"When the fallback was due and queued, {_TIME}"),
        Column("fallback_accepted_at", "Fallback accepted", f"When the provider took it, {_TIME}"),
        Column("fallback_delivered_at", "Fallback delivered", f"First delivery confirmation, {_TIME}"),
        Column("fallback_failed_at", "Fallback failed", f"First report of a failure, {_TIME}"),
        Column("fallback_failure", "Fallback failure", "As Failure"),
        Column("fallback_failure_code", "Fallback failure code", "The provider's own code"),
        Column("fallback_timed_out_at", "Fallback timed out", f"When it was given up for want of any receipt, {_TIME}"),
        Column("no_fallback_at", "No fallback", f"When a fallback was due and could not go, {_TIME}"),
        Column("no_fallback_because", "No fallback because", "Why it could not go, as a code"),
        Column(
            "double_contact", "Double contact", "yes when the patient read in the App and got the text as well, else no"
        ),
        Column("fragments", "Fragments", "SMS fragments that a provider accepted for this patient, failed ones too"),
        Column("reminders", "Reminders", "How many reminders a provider took for this patient"),
        Column("reminded_at", "Last reminded", f"When a provider took the last one, {_TIME}"),
    ),
)

RESPONSES = Report(
    "responses.csv",
    "What patients answered",
    (
        _LINE,
        _NHS_NUMBER,
        _NAME,
        _DATE_OF_BIRTH,
        Column("state", "State", "completed once the patient has sent the answers, else in progress"),
        Column("urgent", "Urgent", "yes when something was answered that can't wait, also where it was changed later"),
        Column("noticed", "Readings to look at", "Each with its range, as it stands now; urgent ones and low ones"),
        Column("told_at", "Practice told", f"When the practice had the last urgent one, {_TIME}; empty before that"),
        Column("told_by", "Told by", "email, webhook, or who has seen it"),
        Column("first_at", "First answer", _TIME.capitalize()),
        Column("changed_at", "Latest change", _TIME.capitalize()),
        Column("completed_at", "Sent", f"When the patient sent the answers, {_TIME}"),
    ),
)
"""Those of every questionnaire; a column for each of its questions follows."""

_START = Column("starts_at", "Start", f"When it begins, {_TIME}")
_MINUTES = Column("minutes", "Minutes", "How long it takes")
_CLINICIAN = Column("clinician", "With", "As in the file of slots")
_PLACE = Column("place", "Place", "As in the file of slots")

BOOKINGS = Report(
    "bookings.csv",
    "What patients booked",
    (
        _LINE,
        _NHS_NUMBER,
        _NAME,
        _DATE_OF_BIRTH,
        Column("answer", "Answer", "Booked, Cancelled, Declined or Not answered: what the patient chose last"),
        _START,
        _MINUTES,
        _CLINICIAN,
        _PLACE,
        Column("slot", "Slot", "Its id in the file of slots"),
        Column("made_at", "Chosen", f"When the patient chose that, {_TIME}"),
        Column("ended_at", "Cancelled", f"When the patient cancelled it, {_TIME}"),
        Column("decline_code", "Decline code", "SNOMED CT, of those who declined, where the batch file has one"),
        Column("code", "Code", "The answer as a code: booked, cancelled, declined or none"),
    ),
)

SLOTS = Report(
    "slots.csv",
    "The slots that the batch offers, and what is left of them",
    (
        Column("slot", "Slot", "Its id in the file of slots"),
        _START,
        _MINUTES,
        _CLINICIAN,
        _PLACE,
        Column("capacity", "Places", "How many patients it holds"),
        Column("booked", "Booked", "By patients of all batches that offer it"),
        Column("free", "Free", "Places that are left; of one that has begun, or is offered no more, none"),
        Column("remark", "Remark", "Where the file had it no more, or fewer places, after it was booked"),
    ),
)

REPORTS: Mapping[str, Report] = {
    report.file: report
    for report in (NON_CONTACTABLE, REJECTED_ROWS, DUPLICATES, FOLLOW_UP, OUTCOMES, RESPONSES, BOOKINGS, SLOTS)
}


def print_table(report: Report) -> str:
    """The report's columns as a Markdown table."""
    rows = (f"| {column.heading} | {column.description} |" for column in report.columns)
    return "\n".join(("| column | what stands in it |", "| --- | --- |", *rows))
