"""The samples in ``examples/``: three cohorts, their batch files, an attachment, slots, a workspace and its lists, all about the same made-up people.

``python -m benchmarks.cohorts --examples`` makes them again, byte for byte. The lists are arranged so that the first two batches,
one after the other, show everything there is to see: which patients get which outcome says ``OUTCOMES``.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from benchmarks import cohorts, dirt, people
from benchmarks.people import Indexes

ROWS = 1_000
FLU_PEOPLE = range(ROWS)
BP_PEOPLE = range(200, 200 + ROWS)
ASTHMA_PEOPLE = range(600, 660)
EVERYBODY = range(BP_PEOPLE.stop)
ACCOUNTS_AS_OF = "2026-10-01"


class Outcome(NamedTuple):
    """What the simulator does with the messages of ``patients`` patients on a channel."""

    group: str
    """Who: by the path of their first message, and for the App by whether a text could follow."""
    channel: str
    outcome: str
    after_minutes: int
    patients: int
    shows: str


OUTCOMES = (
    Outcome("email", "email", "failed", 30, 8, "bounced"),
    Outcome("email", "email", "silent", 0, 4, "accepted is the end state of an email"),
    Outcome("sms", "sms", "failed", 10, 24, "failed; likely to fail in the next batch"),
    Outcome("sms", "sms", "silent", 0, 6, "timed out after 72 hours"),
    Outcome("sms", "sms", "rejected", 0, 3, "not taken by the provider"),
    Outcome("sms", "sms", "delivered", 4_800, 4, "delivered after the time-out, and corrected"),
    Outcome("app", "nhs_app", "delivered", 5, 30, "unread: a text after 24 hours (BP questionnaires 3)"),
    Outcome("app", "nhs_app", "read", 600, 20, "read late, but in time for 24 hours"),
    Outcome("app", "nhs_app", "read", 1_620, 6, "read after the text went: a double contact"),
    Outcome("app", "nhs_app", "rejected", 1, 8, "a text at once"),
    Outcome("app", "nhs_app", "failed", 2, 5, "a text at once"),
    Outcome("app", "nhs_app", "silent", 0, 8, "nothing is known: a text after 24 hours"),
    Outcome("app, and the text fails", "nhs_app", "delivered", 5, 6, "unread, and the text fails too"),
    Outcome("app, no number", "nhs_app", "delivered", 5, 3, "unread without fallback"),
    Outcome("app, no number", "nhs_app", "rejected", 1, 1, "rejected without fallback"),
    Outcome("app, no number", "nhs_app", "silent", 0, 1, "nothing is known, without fallback"),
)
"""Everybody else: accepted and delivered, App messages read, after 5 minutes."""

_TEXT_FAILS = "app, and the text fails"


def write_all(folder: Path) -> None:
    """Write every sample into ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "flu-2026-10.csv").open("wb") as out:
        cohorts.write(out, ROWS, style="emis", first_person=FLU_PEOPLE.start)
    with (folder / "bp-2026-10.csv").open("wb") as out:
        cohorts.write(out, ROWS, style="systmone", first_person=BP_PEOPLE.start)
    with (folder / "asthma-2026-10.csv").open("wb") as out:
        cohorts.write(out, len(ASTHMA_PEOPLE), style="systmone", first_person=ASTHMA_PEOPLE.start)
    (folder / "bp-2026-10.pdf").write_bytes(_leaflet())
    _write_list(folder / "riverside-nhs-app-accounts.csv", "nhs_number,notifications_enabled", _accounts())
    _write_list(folder / "riverside-opt-outs.csv", "nhs_number,opted_out_on,channel", _opt_outs())
    _write_list(folder / "riverside-outcomes.csv", "nhs_number,channel,outcome,after_minutes", _outcomes())
    for name, text in _TEXTS.items():
        (folder / name).write_text(text, encoding="utf-8", newline="\n")


def _leaflet() -> bytes:
    """A PDF of one page, each line of it set by hand."""
    lines = ("Measuring your blood pressure at home", "", *_ADVICE)
    shown = " ".join(f"({line}) Tj T*" for line in lines)
    page = f"BT /F1 14 Tf 20 TL 60 760 Td {shown} ET"
    objects = (
        "<< /Type /Catalog /Pages 2 0 R /Lang (en-GB) >>",
        "<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        "<< /Type /Page /Parent 2 0 R /MediaBox [0 0 595 842] /Resources << /Font << /F1 5 0 R >> >> /Contents 4 0 R >>",
        f"<< /Length {len(page)} >>\nstream\n{page}\nendstream",
        "<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
    )
    text, places = "%PDF-1.4\n", list[int]()
    for number, content in enumerate(objects, 1):
        places.append(len(text))
        text += f"{number} 0 obj\n{content}\nendobj\n"
    table = "".join(f"{place:010} 00000 n \n" for place in places)
    end = f"trailer\n<< /Size {len(objects) + 1} /Root 1 0 R >>\nstartxref\n{len(text)}\n%%EOF\n"
    return f"{text}xref\n0 {len(objects) + 1}\n0000000000 65535 f \n{table}{end}".encode("ascii")


def _write_list(path: Path, headings: str, rows: Iterator[str]) -> None:
    path.write_text("\n".join([headings, *rows, ""]), encoding="utf-8", newline="\n")


def _everybody() -> tuple[Indexes, list[int]]:
    persons = np.arange(EVERYBODY.stop)
    return persons, people.nhs_numbers(persons).tolist()


def _kinds(table: Sequence[people.Kind], column: str, persons: Indexes) -> list[int]:
    return people.kinds(table, persons, seed=cohorts.SEED, salt=cohorts.SALTS[column]).tolist()


def _accounts() -> Iterator[str]:
    persons, numbers = _everybody()
    for number, kind in sorted(zip(numbers, _kinds(dirt.APP, "app", persons), strict=True)):
        if dirt.APP[kind].name != "none":
            yield f"{number},{str(dirt.APP[kind].name == 'notifications on').lower()}"


def _opt_outs() -> Iterator[str]:
    persons, numbers = _everybody()
    kinds = _kinds(dirt.OPT_OUTS, "opt_out", persons)
    for person, (number, kind) in enumerate(zip(numbers, kinds, strict=True)):
        if (channel := dirt.OPT_OUTS[kind].whole) is not None:
            yield f"{number},2026-{person % 9 + 1:02}-{person % 28 + 1:02},{channel}"


def _outcomes() -> Iterator[str]:
    """Outcomes go to people who are in both cohorts, group by group."""
    persons, numbers = _everybody()
    waiting: dict[str, list[int]] = {"email": [], "sms": [], "app": [], "app, no number": []}
    for person, path in zip(persons.tolist(), _paths(persons), strict=True):
        if path and person in FLU_PEOPLE and person in BP_PEOPLE:
            waiting[path].append(numbers[person])
    waiting[_TEXT_FAILS] = waiting["app"][::-1]
    for row in OUTCOMES:
        for number in (waiting[row.group].pop(0) for _ in range(row.patients)):
            yield f"{number},{row.channel},{row.outcome},{row.after_minutes}"
            if row.group == _TEXT_FAILS:
                yield f"{number},sms,failed,10"


def _paths(persons: Indexes) -> Iterator[str | None]:
    """Which way the first message of each goes, a GP in England sending; None for whoever can't be sent to."""
    tables = (dirt.EMAILS, dirt.APP, dirt.PHONES, dirt.OTHER_PHONES, dirt.LIVES, dirt.NHS_NUMBERS, dirt.DATES_OF_BIRTH)
    columns = ("email", "app", "mobile", "telephone", "life", "nhs_number", "date_of_birth")
    rows = zip(*(_kinds(table, column, persons) for table, column in zip(tables, columns, strict=True)), strict=True)
    opted_out = _kinds(dirt.OPT_OUTS, "opt_out", persons)
    for (email, app, mobile, telephone, life, number, birth), out in zip(rows, opted_out, strict=True):
        written = dirt.NHS_NUMBERS[number]
        invalid = written.whole is not None or written.tail != "right" or dirt.DATES_OF_BIRTH[birth].whole is not None
        if invalid or dirt.LIVES[life].date_of_death or out:
            yield None
            continue
        yield _path(
            has_email=dirt.EMAILS[email].usable,
            has_app=dirt.APP[app].name == "notifications on",
            reachable=dirt.PHONES[mobile].usable or dirt.OTHER_PHONES[telephone].usable,
        )


def _path(*, has_email: bool, has_app: bool, reachable: bool) -> str | None:
    if has_email:
        return "email"
    if has_app:
        return "app" if reachable else "app, no number"
    return "sms" if reachable else None


_ADVICE = (
    "Sit down and rest for five minutes first. Keep your back straight and your feet on the floor.",
    "Put the cuff on your bare upper arm, and rest the arm on a table.",
    "Take two readings, at least a minute apart, every morning and every evening.",
    "Do not talk while the monitor measures. Write down what it shows.",
)

_TEXTS = {
    "riverside.yaml": f"""\
# A made-up GP practice. Every key: docs/settings.md
id: riverside
name: Riverside Surgery
ods_code: A99999
organisation_type: gp
nation: england
timezone: Europe/London
exclude_likely_to_fail: true
prices: {{currency: GBP, sms_fragment: 0.0233, email: 0, nhs_app: 0}}
providers: {{email: simulator, nhs_app: simulator, sms: simulator}}
nhs_app_accounts: {{path: riverside-nhs-app-accounts.csv, as_of: {ACCOUNTS_AS_OF}}}
opt_outs: {{path: riverside-opt-outs.csv}}
links: {{base_url: "https://msg.riverside.example.org"}}
simulator:
  seed: {cohorts.SEED}
  outcomes: riverside-outcomes.csv
""",
    "flu-2026-10.yaml": """\
# Who is due a flu jab, from an EMIS search. Each line of the CSV ends up in exactly one place: see the reports.
batch: flu-2026-10
workspace: riverside
cohort: flu-2026-10.csv
message:
  type: simple
  subject: Your free flu jab
  body: >-
    Dear {{ first_name }}, your free flu jab is ready at {{ organisation_name }}. Please ring us to book it.
    You can’t reply to this message.
approval: required
""",
    "bp-2026-10.yaml": """\
# Seven days of blood pressure readings, from a SystmOne report. Unread in the NHS App, it becomes a text after 3 hours.
batch: bp-2026-10
workspace: riverside
cohort: bp-2026-10.csv
message:
  type: questionnaire
  questionnaire: bp_7_day
  saves_responses: true
  attachment: bp-2026-10.pdf
  subject: Your blood pressure at home
  body: >-
    Dear {{ first_name }}, please measure your blood pressure every morning and evening for 7 days, starting tomorrow,
    and give {{ organisation_name }} the readings here: {{ link }} You can’t reply to this message.
approval: required
""",
    "asthma-2026-10.yaml": """\
# Who is due an asthma review, from a SystmOne report. Patients book one of the clinic's slots by themselves.
batch: asthma-2026-10
workspace: riverside
cohort: asthma-2026-10.csv
message:
  type: self_book
  booking: asthma-clinic
  body: "Dear {{ first_name }}, your asthma review is due. Book it: {{ link }} {{ organisation_name }}"
approval: required
""",
    "asthma-clinic.csv": "\n".join(
        [
            "id,start,minutes,clinician,place,capacity",
            *(
                f"{day}-{hour}{minute:02},2026-10-{day}T{hour:02}:{minute:02},20,Nurse Brown,Room 3,1"
                for day in (19, 20, 22)
                for hour in (9, 10, 11)
                for minute in (0, 20, 40)
            ),
            "",
        ]
    ),
}
