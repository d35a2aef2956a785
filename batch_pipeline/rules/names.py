"""Finding the given and the family name in a full name, for ``{{ first_name }}`` in a message.

Clinical systems export ``SMITH, John (Mr)`` (EMIS), ``Mr John Smith`` and ``John Smith``. Never guessed: a name that
is one word alone is a surname, and a patient without a first name is an error at review, not a gap in a text.
"""

TITLES = (
    "mr",
    "mrs",
    "miss",
    "ms",
    "mx",
    "dr",
    "prof",
    "professor",
    "rev",
    "reverend",
    "sir",
    "dame",
    "lord",
    "lady",
    "master",
)

_TITLES = rf"(?i)^(?:(?:{'|'.join(TITLES)})\.?(?:\s+|$))+"
_IN_BRACKETS = r"\s*\([^)]*\)"


def full_name_sql(table: str) -> str:
    """DuckDB expression: the full name of a row of ``table``, as it stands or from its two parts, or NULL."""
    parts = f"nullif(concat_ws(' ', {table}.first_name, {table}.surname), '')"
    return f"coalesce({table}.patient_name, {parts})"


def first_name_sql(full_name: str) -> str:
    """DuckDB expression: the first given name in a full name (a VARCHAR expression), or NULL."""
    given = f"CASE WHEN contains({full_name}, ',') THEN trim(split_part({full_name}, ',', 2)) ELSE {full_name} END"
    bare = _bare(given)
    return (
        f"CASE WHEN contains({full_name}, ',') OR contains({bare}, ' ') THEN nullif(split_part({bare}, ' ', 1), '') END"
    )


def surname_sql(full_name: str) -> str:
    """DuckDB expression: the family name in a full name (a VARCHAR expression), or NULL."""
    before_comma, whole = _bare(f"split_part({full_name}, ',', 1)"), _bare(full_name)
    return f"nullif(CASE WHEN contains({full_name}, ',') THEN {before_comma} ELSE split_part({whole}, ' ', -1) END, '')"


def _bare(name: str) -> str:
    """The name without titles before it or in brackets behind it, single-spaced."""
    return f"trim(regexp_replace(regexp_replace(regexp_replace({name}, '{_IN_BRACKETS}', '', 'g'), '\\s+', ' ', 'g'), '{_TITLES}', ''))"
