"""Home blood pressure: which readings make the average, and which ones can't wait (SPEC 2.6, 2.12; NICE NG136).

NG136 (Hypertension in adults, 28 August 2019, section 1.2) on home monitoring: two measurements each time, at least a
minute apart, morning and evening, for at least 4 days and ideally 7; "discard the measurements taken on the first day
and use the average value of all the remaining measurements". It doesn't say what to do about missing ones: that is
ours, and stands at ``average``.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date
from typing import NamedTuple


@dataclass(frozen=True, slots=True)
class Reading:
    """One measurement, in mmHg, on a day of the patient's."""

    on: date
    systolic: int
    diastolic: int


@dataclass(frozen=True, slots=True)
class Average:
    """What the readings come to without those of the first day."""

    systolic: int
    diastolic: int
    readings: int
    """How many were counted."""
    days: int
    """On how many days those were taken."""

    @property
    def valid(self) -> bool:
        """Whether there are as many as NG136's shortest course gives; otherwise the figure is a preview."""
        return self.days >= LEAST_DAYS and self.readings >= LEAST_READINGS


LEAST_DAYS = 3
"""Of the days counted: NG136's 4, without the first."""
LEAST_READINGS = 12
"""Two each morning and evening of those days."""


def average(readings: Iterable[Reading]) -> Average | None:
    """The average of all readings but those of the first day; ``None`` while there are none on any other.

    The first day is the earliest date that has a reading, whichever page of the form it was written on. Every other
    reading counts once, whatever its day or time of day, and a missing one isn't made up for: nothing is weighted,
    nothing filled in. Rounded to whole mmHg, halves up, so that no average is put below a threshold it has reached.
    """
    taken = list(readings)
    first = min((reading.on for reading in taken), default=None)
    counted = [reading for reading in taken if reading.on != first]
    if not counted:
        return None
    return Average(
        systolic=_rounded(sum(reading.systolic for reading in counted), len(counted)),
        diastolic=_rounded(sum(reading.diastolic for reading in counted), len(counted)),
        readings=len(counted),
        days=len({reading.on for reading in counted}),
    )


def _rounded(total: int, count: int) -> int:
    return (2 * total + count) // (2 * count)


class Pair(NamedTuple):
    """Two thresholds in mmHg."""

    systolic: int
    diastolic: int


@dataclass(frozen=True, slots=True)
class Advice:
    """What the page tells the patient at once. Words for a page; nothing of how it is drawn."""

    heading: str
    emergency: str
    """What to do if one of ``symptoms`` is there; empty where there are none to ask about."""
    symptoms: tuple[str, ...]
    otherwise: str


@dataclass(frozen=True, slots=True)
class Band:
    """A range in which one number is enough, from when on it is seen so, and what follows."""

    code: str
    label: str
    """For the inbox."""
    effective_from: date
    at_least: Pair | None
    below: Pair | None
    urgent: bool
    """Whether the practice is alerted; the advice is shown in any case."""
    advice: Advice
    source: str

    def holds(self, systolic: int | None, diastolic: int | None) -> bool:
        """Whether either number lies in the range. One that is missing says nothing."""
        return (
            (self.at_least is not None and _reaches(systolic, self.at_least.systolic))
            or (self.at_least is not None and _reaches(diastolic, self.at_least.diastolic))
            or (self.below is not None and _is_below(systolic, self.below.systolic))
            or (self.below is not None and _is_below(diastolic, self.below.diastolic))
        )


def _reaches(number: int | None, threshold: int) -> bool:
    return number is not None and number >= threshold


def _is_below(number: int | None, threshold: int) -> bool:
    return number is not None and number < threshold


_NG136 = date(2019, 8, 28)

BANDS: Sequence[Band] = (
    Band(
        code="very_high",
        label="Very high: 180/120 or more",
        effective_from=_NG136,
        at_least=Pair(180, 120),
        below=None,
        urgent=True,
        advice=Advice(
            heading="Your blood pressure reading is very high",
            emergency="Call 999 or go to A&E now if you have any of these:",
            symptoms=(
                "chest pain",
                "shortness of breath",
                "new confusion, or trouble speaking",
                "weakness or numbness of your face, arm or leg",
                "a severe headache",
                "blurred vision or loss of sight",
                "you are passing much less urine than usual",
            ),
            otherwise=(
                "If you have none of these, get medical help today. Ask your GP surgery for an urgent appointment, or "
                "call 111 if it is closed. Tell them this reading. Do not wait until you have finished all your "
                "readings, and do not wait for the surgery to contact you."
            ),
        ),
        source="NICE NG136, 1.5: 180/120 mmHg or higher, with the signs that need same-day assessment",
    ),
    Band(
        code="low",
        label="Low: below 90/60",
        effective_from=_NG136,
        at_least=None,
        below=Pair(90, 60),
        urgent=False,
        advice=Advice(
            heading="Your blood pressure reading is low",
            emergency="",
            symptoms=(),
            otherwise=(
                "This can be normal for you. Contact your GP surgery if you keep feeling dizzy, light-headed or faint. "
                "If you feel unwell now, call 111, or 999 in an emergency. Do not stop taking any medicine without "
                "asking first."
            ),
        ),
        source="NHS website, low blood pressure: less than 90/60 mmHg, see a GP about dizziness and fainting",
    ),
)
"""The first that holds is the reading's. To change one add a row with a later date and the same code; rows that
readings were judged by stay."""


def band(systolic: int | None, diastolic: int | None, on: date, bands: Sequence[Band] = BANDS) -> Band | None:
    """The range that a reading given on that day lies in, or ``None``. A number that is missing yet is ``None``.

    Every reading is asked about by itself and at once, also one of the first day, which the average leaves out.
    ``LookupError`` on a day on which no row is in force: unjudged is not the same as unremarkable.
    """
    return next((found for found in _in_force(on, bands) if found.holds(systolic, diastolic)), None)


def _in_force(on: date, bands: Sequence[Band]) -> Iterable[Band]:
    """Of the rows of each code the latest that has begun, in the table's order."""
    latest: dict[str, Band] = {}
    for row in bands:
        if row.effective_from <= on and (
            row.code not in latest or row.effective_from > latest[row.code].effective_from
        ):
            latest[row.code] = row
    if not latest:
        raise LookupError(f"no range of blood pressure is in force on {on}")
    return latest.values()
