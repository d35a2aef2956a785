"""Who can be contacted, and every reason why not (SPEC 2.3), as DuckDB expressions over one patient's facts.

The reasons' labels, remedies and order are data in ``reasons``; here stands when each of them holds. The facts are
columns that the caller's query provides:

=================  =========================================================================
``path``           what the path table gives this patient (``paths.path_sql``)
``deceased``       by the file
``mark``           of an earlier batch: ``deceased``, ``invalidated``, ``exit_coded`` or NULL
``opted_out``      LIST of what the patient opted out of: ``all`` or channels; never NULL
``email``          a well-formed address, or NULL, whatever the opt-outs
``has_app``        an account with notifications on, by a snapshot that counts, whatever the opt-outs
``mobile``         a valid UK mobile, E.164, or NULL, whatever the opt-outs
``phone_kind``     what the line's numbers are, as ``phones`` tells them
``likely``         the switch is on and the last SMS to this mobile failed
``looked_up``      what a look-up came to (``demographics.OUTCOMES``), or NULL: none was made
``begun``          the message is under way, by this channel, or NULL (``GAP`` alone asks)
``marked_by_pds``  nothing but an earlier look-up gave the mark (``GAP`` alone asks)
=================  =========================================================================
"""

_OUT = "contains(opted_out, '{}')"
_NEEDS_NUMBER = "path = 'sms'"
_HAS_NO_NUMBER = "(mobile IS NULL OR likely)"
NO_MOBILE_KINDS = ("none", "landline", "not_mobile")
WITHOUT_DETAILS = ("not_found", "other_person", "failed")
"""Look-ups that say nothing of the patient."""

CONDITIONS: dict[str, str] = {
    "deceased": "deceased OR coalesce(mark = 'deceased', false) OR coalesce(looked_up = 'deceased', false)",
    # A look-up that failed is a reason only for those whose path still lacks what it was made for.
    "unable_to_retrieve": (
        "coalesce(mark IN ('invalidated', 'exit_coded'), false) "
        "OR coalesce(looked_up IN ('restricted', 'invalidated', 'exit_coded'), false) "
        f"OR {_NEEDS_NUMBER} AND {_HAS_NO_NUMBER} AND coalesce(looked_up IN {WITHOUT_DETAILS}, false)"
    ),
    # Out of the email or App that we hold, and no number left to be reached by: the opt-out is what keeps us from them.
    "opted_out": (
        f"{_OUT.format('all')} OR {_NEEDS_NUMBER} AND ({_OUT.format('sms')} OR {_HAS_NO_NUMBER} AND "
        f"({_OUT.format('email')} AND email IS NOT NULL OR {_OUT.format('nhs_app')} AND has_app))"
    ),
    "not_provided": f"{_NEEDS_NUMBER} AND phone_kind IN {NO_MOBILE_KINDS}",
    "not_uk": f"{_NEEDS_NUMBER} AND phone_kind = 'not_uk'",
    "likely_to_fail": f"{_NEEDS_NUMBER} AND likely",
}

GAP = (
    f"begun IS NULL AND NOT deceased AND NOT {_OUT.format('all')} AND coalesce(marked_by_pds, mark IS NULL) "
    f"AND ({_NEEDS_NUMBER} AND {_HAS_NO_NUMBER} AND NOT {_OUT.format('sms')} OR mark IS NOT NULL)"
)
"""Whether a patient's details have to be looked up: the path needs a number, and neither the file nor anything else has a
usable one. Nobody is looked up who gets no message anyway. What a look-up said against a patient is asked again."""

USABLE_EMAIL = f"CASE WHEN NOT ({_OUT.format('email')} OR {_OUT.format('all')}) THEN email END"
USABLE_MOBILE = f"CASE WHEN NOT ({_OUT.format('sms')} OR {_OUT.format('all')} OR likely) THEN mobile END"
APP_OPEN = f"has_app AND NOT ({_OUT.format('nhs_app')} OR {_OUT.format('all')})"


def reasons_sql() -> str:
    """VARCHAR[] of the codes that hold, in the order of the SPEC; the first is the primary one."""
    cases = ", ".join(f"CASE WHEN {condition} THEN '{code}' END" for code, condition in CONDITIONS.items())
    any_holds = " OR ".join(f"({condition})" for condition in CONDITIONS.values())
    return f"CASE WHEN {any_holds} THEN list_filter([{cases}], lambda code: code IS NOT NULL) ELSE []::VARCHAR[] END"


def sub_reason_sql(reasons: str) -> str:
    """What stands behind the primary reason, for ``not_provided`` and ``unable_to_retrieve``; else NULL."""
    return (
        f"CASE {reasons}[1] WHEN 'not_provided' THEN CASE phone_kind WHEN 'landline' THEN 'landline_only' "
        "WHEN 'not_mobile' THEN 'not_mobile' END WHEN 'unable_to_retrieve' THEN coalesce("
        "CASE WHEN mark <> 'deceased' THEN mark END, CASE looked_up WHEN 'failed' THEN 'look_up_failed' ELSE looked_up END) "
        "END"
    )
