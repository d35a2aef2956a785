"""What made-up cohorts hold, as data: names, and every kind of dirt with its share per 1,000 patients.

Only numbers and addresses that can be nobody's: mobiles 07700 900000-900999 (SPEC 3); as landlines, freephone and
national numbers Ofcom's "numbers for drama"; abroad, the blocks that the United States (555-01xx), France (ARCEP, 06 39 98),
Ireland and Australia keep for fiction; as a personal number and a pager libphonenumber's own example numbers. Emails are
@example.org (RFC 2606).
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

FULL_WIDTH_ZERO = 0xFF10

VARIANTS = 10_000
"""How many different cells each kind of phone has: 1,000 numbers, in ten varieties."""


class PhoneKind(NamedTuple):
    """One way a phone cell is filled; ``write(n, variety)`` with n in 0-999 and variety in 0-9."""

    name: str
    per_mille: int
    usable: bool
    write: Callable[[int, int], str]


class EmailKind(NamedTuple):
    """One way an email cell is filled: something before and after ``local@example.org``, or something else entirely."""

    name: str
    per_mille: int
    usable: bool
    before: str = ""
    after: str = "@example.org"
    whole: str | None = None


class CellKind(NamedTuple):
    """One way another cell is filled; ``whole`` in place of what would stand there, when it isn't None."""

    name: str
    per_mille: int
    whole: str | None = None


class NhsKind(NamedTuple):
    """One way an NHS number cell is filled."""

    name: str
    per_mille: int
    separator: str = ""
    tail: str = "right"
    """The last four digits: ``right``, ``wrong`` check digit, ``short`` of a digit, or with a ``letter``."""
    whole: str | None = None


class DateKind(NamedTuple):
    """One way a date of birth is written: a ``strftime`` format, or ``whole``."""

    name: str
    per_mille: int
    format: str = ""
    whole: str | None = None


class LifeKind(NamedTuple):
    """What the file says of a death, in the column an export has for it."""

    name: str
    per_mille: int
    date_of_death: str = ""
    deceased: str = ""


class LineKind(NamedTuple):
    """What becomes of a patient's line as a whole."""

    name: str
    per_mille: int


_LANDLINES = (
    *("0113 496 0{n:03}", "0114 496 0{n:03}", "0116 496 0{n:03}", "0117 496 0{n:03}", "0118 496 0{n:03}"),
    *("0121 496 0{n:03}", "(0131) 496 0{n:03}", "01414960{n:03}", "020 7946 0{n:03}", "028 9649 6{n:03}"),
)
_NOT_MOBILE = (
    *("0808 157 0{n:03}", "08081570{n:03}", "03069 990{n:03}", "03069990{n:03}", "0909 879 0{n:03}"),
    *("070 1234 5678", "+447640123456", "0808-157-0{n:03}", "+44 3069 990{n:03}", "0909 8790{n:03}"),
)
_ABROAD = (
    *("+33 6 39 98 {n:04}", "+33639981{n:03}", "0033 6 39 98 2{n:03}", "+33 (0)6 39 98 3{n:03}", "+33.6.39.98.4{n:03}"),
    *(
        "+1 202 555 01{n2:02}",
        "+1 (212) 555-01{n2:02}",
        "00120255501{n2:02}",
        "+353 20 91{n:03}5",
        "+61 491 570 1{n2:02}",
    ),
)
_WORDS = (
    "ask daughter",
    "no mobile",
    "ex-directory",
    "care home",
    "none given",
    "see notes",
    "tbc",
    "x",
    "?",
    "deaf, email only",
)
_BESIDE = ("(wife)", "wife", "- daughter's", "carer", "(son Tom)", "work", "ext 2", "only after 6pm", "(mum)", "old?")
_JOINED = (" / ", "/", ", ", " or ", "; ", " and ", " & ", "\n", "  ", " | ")


def _one_of(templates: Sequence[str]) -> Callable[[int, int], str]:
    return lambda n, variety: templates[variety].format(n=n, n2=n % 100)


def _two(n: int, variety: int) -> str:
    return f"07700 900{n:03}{_JOINED[variety]}07700 900{(n * 7 + variety) % 1000:03}"


def _full_width(n: int, _variety: int) -> str:
    return "".join(chr(FULL_WIDTH_ZERO + int(digit)) for digit in f"07700900{n:03}")


PHONES = (
    PhoneKind("plain", 555, True, lambda n, _: f"07700900{n:03}"),
    PhoneKind("spaced", 125, True, lambda n, _: f"07700 900{n:03}"),
    PhoneKind("spaced twice", 30, True, lambda n, _: f"07700 900 {n:03}"),
    PhoneKind("dashed", 15, True, lambda n, _: f"07700-900-{n:03}"),
    PhoneKind("in brackets", 8, True, lambda n, _: f"(07700) 900{n:03}"),
    PhoneKind("zero eaten by a spreadsheet", 30, True, lambda n, _: f"7700900{n:03}"),
    PhoneKind("letter O for zero", 5, True, lambda n, _: f"O77OO 9OO{n:03}"),
    PhoneKind("+44", 30, True, lambda n, _: f"+447700900{n:03}"),
    PhoneKind("+44 spaced", 20, True, lambda n, _: f"+44 7700 900{n:03}"),
    PhoneKind("0044", 6, True, lambda n, _: f"00447700900{n:03}"),
    PhoneKind("+44 (0)", 8, True, lambda n, _: f"+44 (0)7700 900{n:03}"),
    PhoneKind("non-breaking space", 4, True, lambda n, _: f"07700\u00a0900{n:03}"),
    PhoneKind("zero-width space", 3, True, lambda n, _: f"\u200b07700900{n:03}"),
    PhoneKind("full-width digits", 1, True, _full_width),
    PhoneKind("shared by several patients", 6, True, lambda _n, _: "07700 900000"),
    PhoneKind("empty", 72, False, lambda _n, _: ""),
    PhoneKind("a word for nothing", 10, False, lambda _n, variety: ("NULL", "nan", "-", "N/A", "none")[variety % 5]),
    PhoneKind("landline", 26, False, _one_of(_LANDLINES)),
    PhoneKind("neither mobile nor landline", 10, False, _one_of(_NOT_MOBILE)),
    PhoneKind("abroad", 13, False, _one_of(_ABROAD)),
    PhoneKind("two numbers", 6, False, _two),
    PhoneKind("scientific notation", 5, False, lambda n, variety: f"7.70{variety}{n % 10}E+09"),
    PhoneKind("a digit short", 4, False, lambda n, variety: f"07700900{n % 100:02}{' ' * (variety % 2)}"),
    PhoneKind("a digit too many", 2, False, lambda n, variety: f"07700900{n:03}{variety}"),
    PhoneKind("no such number", 2, False, lambda n, _: f"01632 960{n:03}"),
    PhoneKind("words", 2, False, lambda _n, variety: _WORDS[variety]),
    PhoneKind("words beside the number", 2, False, lambda n, variety: f"07700 900{n:03} {_BESIDE[variety]}"),
)
"""The mobile column."""

OTHER_PHONES = (
    PhoneKind("empty", 610, False, lambda _n, _: ""),
    PhoneKind("landline", 340, False, _one_of(_LANDLINES)),
    PhoneKind("mobile", 50, True, lambda n, _: f"07700 900{n:03}"),
)
"""The preferred or other telephone column."""

EMAILS = (
    EmailKind("none", 686, False, whole=""),
    EmailKind("plain", 262, True),
    EmailKind("in capitals", 8, True, after="@EXAMPLE.ORG"),
    EmailKind("spaces around", 6, True, before=" ", after="@example.org  "),
    EmailKind("punctuation around", 5, True, before="<", after="@example.org>;"),
    EmailKind("non-breaking space", 2, True, after="@example.org\u00a0"),
    EmailKind("shared by several patients", 3, True, whole="the.family@example.org"),
    EmailKind("a word for nothing", 6, False, whole="NULL"),
    EmailKind("two addresses", 5, False, after="@example.org; home@example.org"),
    EmailKind("words beside the address", 5, False, after="@example.org (wife)"),
    EmailKind("no @", 5, False, after=".example.org"),
    EmailKind("cut off", 4, False, after="@example"),
    EmailKind("two @", 3, False, after="@@example.org"),
)

NHS_NUMBERS = (
    NhsKind("plain", 887),
    NhsKind("spaced", 65, " "),
    NhsKind("dashed", 15, "-"),
    NhsKind("non-breaking spaces", 5, "\u00a0"),
    NhsKind("wrong check digit", 12, tail="wrong"),
    NhsKind("a digit short", 5, tail="short"),
    NhsKind("missing", 4, whole=""),
    NhsKind("a letter in it", 2, tail="letter"),
    NhsKind("scientific notation", 3, whole="9.99E+09"),
    NhsKind("one digit repeated", 1, whole="9999999999"),
    NhsKind("zeros", 1, whole="0000000000"),
)

DATES_OF_BIRTH = (
    DateKind("day first", 845, "%d/%m/%Y"),
    DateKind("month in words", 65, "%d-%b-%Y"),
    DateKind("ISO", 65, "%Y-%m-%d"),
    DateKind("missing", 14, whole=""),
    DateKind("a word for nothing", 2, whole="NULL"),
    DateKind("no such day", 3, whole="31/02/1975"),
    DateKind("month first", 1, whole="04/25/1981"),
    DateKind("in the future", 2, whole="01/04/2031"),
    DateKind("before 1900", 2, whole="12/03/1897"),
    DateKind("words", 1, whole="not known"),
)

LIVES = (
    LifeKind("alive", 954),
    LifeKind("said to be alive", 30, deceased="No"),
    LifeKind("dead", 8, date_of_death="14/07/2026", deceased="Y"),
    LifeKind("dead, date in words", 3, date_of_death="Aug 2026", deceased="1"),
    LifeKind("dead, date unreadable", 2, date_of_death="??/??/2026", deceased="Yes"),
    LifeKind("unclear", 3, date_of_death="see notes", deceased="see notes"),
)

SURNAME_CELLS = (
    CellKind("plain", 994),
    CellKind("a formula", 2, "=1+1"),
    CellKind("a formula with a plus", 2, "+Brown"),
    CellKind("with a comma and quotes", 2, 'Lloyd, "Bill"'),
)

EXTRA_CELLS = (
    CellKind("Dr A. Patel", 480, "Dr A. Patel"),
    CellKind("Dr S. O'Neill", 300, "Dr S. O'Neill"),
    CellKind("Dr B. Okafor", 200, "Dr B. Okafor"),
    CellKind("empty", 8, ""),
    CellKind("in quotes, with quotes", 5, 'Dr "Bob" Lee, locum'),
    CellKind("on two lines", 4, "Dr B. Okafor\n(Tuesdays)"),
    CellKind("a formula", 3, '=HYPERLINK("http://example.org","GP")'),
)
"""The column that no rule knows, and that is kept for personalisation."""

LINES = (
    LineKind("own", 979),
    LineKind("an earlier patient again", 7),
    LineKind("an earlier patient again, other details", 11),
    LineKind("a cell too many", 2),
    LineKind("cut off", 1),
)

BETWEEN = (LineKind("nothing", 996), LineKind("a blank line", 2), LineKind("a line of commas", 2))
"""What follows a line; none of it is data."""

APP = (LineKind("none", 520), LineKind("notifications on", 400), LineKind("notifications off", 80))
"""Who has the NHS App."""

OPT_OUTS = (
    CellKind("none", 984),
    CellKind("everything", 10, "all"),
    CellKind("texts", 3, "sms"),
    CellKind("emails", 3, "email"),
)

FIRST_NAMES = (
    *("Aisha", "Alan", "Amelia", "Anaïs", "Andrew", "Angela", "Anjali", "Anna", "Barbara", "Ben", "Björn", "Brian"),
    *("Carol", "Catherine", "Chidi", "Chloë", "Christine", "Colin", "Daniel", "David", "Deborah", "Derek", "Diane"),
    *("Edward", "Elaine", "Emily", "Emma", "Ewan", "Fatima", "Fiona", "François", "Gareth", "Geoffrey", "George"),
    *("Gillian", "Grace", "Graham", "Hannah", "Harpreet", "Helen", "Ian", "Imran", "Isobel", "Jack", "Jacqueline"),
    *("James", "Jane", "Janet", "Jean-Luc", "Joanne", "John", "José", "Judith", "Karen", "Keith", "Kwame", "Laura"),
    *("Leah", "Linda", "Louise", "Małgorzata", "Margaret", "Mark", "Mary Ann", "Mohammed", "Nia", "Niamh", "Nigel"),
    *("Olivia", "Oluwaseun", "Patricia", "Paul", "Peter", "Priya", "Rachel", "Renée", "Rhys", "Robert", "Ruth"),
    *("Samir", "Sandra", "Sarah", "Sean", "Siân", "Søren", "Stephen", "Susan", "Thomas", "Usha", "Wei", "Zoë"),
)
SURNAMES = (
    *(
        "Adams",
        "Ahmed",
        "Ali",
        "Allen",
        "Anderson",
        "Bailey",
        "Baker",
        "Begum",
        "Bennett",
        "Brown",
        "Campbell",
        "Carter",
    ),
    *(
        "Chen",
        "Clarke",
        "Collins",
        "Cooper",
        "Cox",
        "D'Souza",
        "Davies",
        "Davis",
        "Edwards",
        "Ellis",
        "Evans",
        "Fernández",
    ),
    *(
        "Foster",
        "García",
        "Gray",
        "Green",
        "Griffiths",
        "Hall",
        "Harris",
        "Harrison",
        "Hill",
        "Hughes",
        "Hussain",
        "Jackson",
    ),
    *("James", "Johnson", "Jones", "Kaur", "Kelly", "Khan", "King", "Lee", "Lewis", "Lloyd", "MacDonald", "Marshall"),
    *("Martin", "Mason", "McCarthy", "Mitchell", "Moore", "Morgan", "Morris", "Müller", "Murphy", "Nowak", "Null"),
    *(
        "O'Connor",
        "O'Neill",
        "Okafor",
        "Owen",
        "Parker",
        "Patel",
        "Phillips",
        "Price",
        "Rees-Jones",
        "Richards",
        "Roberts",
    ),
    *("Robinson", "Rogers", "Scott", "Shah", "Shaw", "Simpson", "Singh", "Smith", "Smith-Jones", "St. John", "Taylor"),
    *(
        "Thomas",
        "Thompson",
        "Turner",
        "van der Berg",
        "Walker",
        "Walsh",
        "Ward",
        "Watson",
        "White",
        "Williams",
        "Wilson",
    ),
    *("Wood", "Wright", "Wójcik", "Young"),
)
TITLES = ("Mr", "Mrs", "Ms", "Miss", "Dr", "Mx")
