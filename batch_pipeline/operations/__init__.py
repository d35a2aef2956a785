"""What one does with a house: take in, review, send, follow up, report. The shell and Dagster both call these.

No Dagster here; what a person can mend is ``Refused``.
"""
