"""What the assets have in common: one partition a batch, or a day and practice, and who looks after them."""

from collections.abc import Sequence
from datetime import date

import dagster as dg

BATCHES = dg.DynamicPartitionsDefinition(name="batch")
"""Keys are batch ids, ``[a-z0-9][a-z0-9-]{0,62}``: Dagster takes any text, so they are checked before they are added."""

OWNERS = ["team:messaging"]

PRACTICES = dg.DynamicPartitionsDefinition(name="ods_code")
"""Keys are ODS codes of workspaces: three to ten letters and digits."""
DAYS = dg.DailyPartitionsDefinition(start_date="2026-01-01", timezone="Europe/London", end_offset=1)
"""To the present day: what is fetched is of the day on which it is."""
PRACTICE_DAYS = dg.MultiPartitionsDefinition({"day": DAYS, "ods_code": PRACTICES})


def practice_days(partition_keys: Sequence[str]) -> tuple[list[date], str]:
    """The days and the ODS code of a run's partitions of ``PRACTICE_DAYS``, which are one practice's."""
    keys = [PRACTICE_DAYS.get_partition_key_from_str(each).keys_by_dimension for each in partition_keys]
    (practice,) = {each["ods_code"] for each in keys}
    return [date.fromisoformat(each["day"]) for each in keys], practice


def newest_app_accounts() -> dg.AssetDep:
    """The newest day of NHS App accounts, whichever it is: the house reads it, and Dagster is told where it comes from."""
    return dg.AssetDep("nhs_app_accounts", partition_mapping=dg.AllPartitionMapping())
