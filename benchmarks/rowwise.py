"""The baseline: planning as it is usually written, a row at a time with pandas and phonenumbers.

An honest version of it: it reads the file once, keeps what it has seen in sets, and does for each row about what a plan
does: NHS number, date of birth, duplicates, phones, email, path, text and SMS fragments. It decides less than the
planner (it mends less, and makes no tables), so what it is compared with isn't made to look better than it is.
"""

import argparse
import re
import time
from collections import Counter
from datetime import date
from pathlib import Path
from typing import Protocol, cast

import pandas as pd
import phonenumbers
from email_validator import EmailNotValidError, validate_email

_BODY = "Dear {first_name}, your free flu jab is ready. Please ring the surgery to book it. You can't reply to this message."
_GSM_7 = set(
    "@£$¥èéùìòÇ\nØø\rÅåΔ_ΦΓΛΩΠΨΣΘΞÆæßÉ !\"#¤%&'()*+,-./0123456789:;<=>?¡ABCDEFGHIJKLMNOPQRSTUVWXYZÄÖÑÜ§¿abcdefghijklmnopqrstuvwxyzäöñüà"
)
_FICTIONAL = re.compile(r"\+447700900\d{3}")


class Row(Protocol):
    """A line of a plain cohort, as ``itertuples`` gives it (``iterrows`` takes twice as long)."""

    nhs_number: str
    first_name: str
    date_of_birth: str
    mobile: str
    telephone: str
    email: str
    date_of_death: str


def run(path: Path, rows: int) -> float:
    """Seconds that the first ``rows`` data lines of a plain cohort take, from the file to the counts."""
    started = time.perf_counter()
    plan(path, rows)
    return time.perf_counter() - started


def plan(path: Path, rows: int) -> Counter[str]:
    """How many lines ended where: ``rejected``, ``duplicate``, ``non_contactable``, or by path."""
    frame = pd.read_csv(path, dtype=str, keep_default_na=False, nrows=rows, on_bad_lines="skip").fillna("")
    seen: set[str] = set()
    counts: Counter[str] = Counter()
    for row in frame.itertuples(index=False):
        counts[_place(cast("Row", row), seen, counts)] += 1
    return counts


def _place(row: Row, seen: set[str], counts: Counter[str]) -> str:
    number = re.sub(r"[\s-]", "", row.nhs_number)
    if not _valid_nhs_number(number) or not _valid_date_of_birth(row.date_of_birth.strip()):
        return "rejected"
    if number in seen:
        return "duplicate"
    seen.add(number)
    if row.date_of_death.strip():
        return "non_contactable"
    mobile = _mobile(row.mobile) or _mobile(row.telephone)
    if _email(row.email):
        return "email"
    if mobile is None:
        return "non_contactable"
    counts["fragments"] += _fragments(_BODY.format(first_name=row.first_name))
    return "sms"


def _valid_nhs_number(number: str) -> bool:
    if not re.fullmatch(r"[0-9]{10}", number) or len(set(number)) == 1:
        return False
    total = sum(int(digit) * weight for digit, weight in zip(number, range(10, 1, -1), strict=False))
    check = (11 - total % 11) % 11
    return check != 10 and check == int(number[9])


def _valid_date_of_birth(text: str) -> bool:
    if text in {"", "NULL"}:
        return True
    for written in ("%d/%m/%Y", "%d-%b-%Y", "%Y-%m-%d"):
        try:
            born = time.strptime(text, written)
        except ValueError:
            continue
        return date(1900, 1, 1) <= date(*born[:3]) <= date(2026, 10, 1)
    return False


def _mobile(text: str) -> str | None:
    """The number in E.164 where a text message can go, or None."""
    if not text.strip():
        return None
    try:
        number = phonenumbers.parse(text, "GB")
    except phonenumbers.NumberParseException:
        return None
    written = phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.E164)
    if _FICTIONAL.fullmatch(written):
        return written
    usable = (
        number.country_code == 44
        and phonenumbers.is_valid_number(number)
        and phonenumbers.number_type(number) == phonenumbers.PhoneNumberType.MOBILE
    )
    return written if usable else None


def _email(text: str) -> str | None:
    """The address where an email can go, or None."""
    trimmed = text.strip(" <>;,\u00a0")
    if not trimmed:
        return None
    try:
        return validate_email(trimmed, check_deliverability=False).normalized
    except EmailNotValidError:
        return None


def _fragments(text: str) -> int:
    if all(character in _GSM_7 for character in text):
        return 1 if len(text) <= 160 else -(-len(text) // 153)
    units = len(text.encode("utf-16-le")) // 2
    return 1 if units <= 70 else -(-units // 67)


def main() -> None:
    """Time the baseline on a cohort that ``benchmarks.cohorts`` made."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.rowwise", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("cohort", type=Path, help="a CSV of style plain")
    parser.add_argument("--rows", type=int, default=10_000)
    chosen = parser.parse_args()
    seconds = run(chosen.cohort, chosen.rows)
    print(f"row by row, {chosen.rows:,} rows: {chosen.rows / seconds:,.0f} rows/s")


if __name__ == "__main__":
    main()
