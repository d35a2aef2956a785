"""Who has the NHS App: a practice's accounts fetched once a day, and kept as one table a day (SPEC 2.4)."""

import os
from collections.abc import Sequence
from datetime import date, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from batch_pipeline.errors import Refused
from batch_pipeline.house import House
from batch_pipeline.ingest.lists import NO_ACCOUNTS
from batch_pipeline.planning.duck import write
from batch_pipeline.providers.accounts import nhs_notify_account
from batch_pipeline.providers.nhs_notify_app_accounts import AccountsNotFetched, NhsAppAccounts
from batch_pipeline.rules.paths import app_is_open
from batch_pipeline.settings import Workspace, readable_workspaces

ZONE = ZoneInfo("Europe/London")
"""Whose days they are: the NHS App is open in England alone."""
KEPT_FOR = timedelta(days=14)
"""A day's accounts are deleted when a newer one this much later is there. Long before that they count as unknown."""


def day_of(now: datetime) -> date:
    """The day that accounts fetched at ``now`` are of."""
    return now.astimezone(ZONE).date()


def practice_of(workspace: Workspace) -> str:
    """The ODS code whose accounts a workspace's snapshot comes from; ``Refused`` for one that fetches none."""
    if not app_is_open(workspace.organisation_type, workspace.nation):
        raise Refused(f"workspace {workspace.id}: the NHS App is open to GP organisations in England only")
    if not workspace.fetches_app_accounts:
        raise Refused(
            f"workspace {workspace.id} fetches no NHS App accounts: write nhs_app_accounts: {{fetched_from: nhs_notify}}"
        )
    return workspace.ods_code


def not_fetched(house: House, now: datetime) -> tuple[list[str], list[str]]:
    """Practices whose accounts of today are wanted and not there; and what is wrong with workspaces' files."""
    workspaces, faults = readable_workspaces(house.home)
    wanted = {practice_of(each) for each in workspaces if _wants(each)}
    return sorted(code for code in wanted if not house.app_accounts_of(code, day_of(now)).exists()), faults


def _wants(workspace: Workspace) -> bool:
    return workspace.fetches_app_accounts and app_is_open(workspace.organisation_type, workspace.nation)


def fetch(
    house: House, con: duckdb.DuckDBPyConnection, ods_code: str, days: Sequence[date], out: Path, now: datetime
) -> date:
    """Writes a practice's accounts, all or none, to ``out``; gives the day they are of, which is the one asked for.

    ``Refused`` with the reason; the last snapshot stays either way.
    """
    if list(days) != [day_of(now)]:
        raise Refused(f"NHS Notify tells the accounts of the present day only: fetch those of {day_of(now)}")
    rows = _accounts(_sender(house, ods_code), ods_code)
    con.register("fetched", rows)
    write(con, "FROM fetched", out)
    return day_of(now)


def keep(house: House, table: Path, ods_code: str, day: date) -> tuple[Path, int]:
    """Puts a whole table of a day in its place; gives it, and how many days were too old to be kept beside it."""
    place = house.app_accounts_of(ods_code, day)
    place.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with table.open("rb") as file:
        os.fsync(file.fileno())
    table.replace(place)
    old = [path for path in house.fetched_app_accounts(ods_code) if date.fromisoformat(path.stem) < day - KEPT_FOR]
    for path in old:
        path.unlink(missing_ok=True)
    return place, len(old)


def counted(house: House, ods_code: str, day: date) -> tuple[int, int]:
    """How many accounts of a practice are kept of a day, and how many with notifications on."""
    notified = pq.read_table(house.app_accounts_of(ods_code, day), columns=["notifications_enabled"])
    return notified.num_rows, sum(notified["notifications_enabled"].to_pylist())


def _sender(house: House, ods_code: str) -> Workspace:
    """The first workspace, by its file's name, that asks for this practice's accounts: with its keys they are fetched."""
    workspaces, faults = readable_workspaces(house.home)
    for workspace in workspaces:
        if _wants(workspace) and workspace.ods_code == ods_code:
            return workspace
    more = f" ({faults[0]})" if faults else ""
    raise Refused(f"no workspace of ODS code {ods_code} says nhs_app_accounts: {{fetched_from: nhs_notify}}{more}")


def _accounts(workspace: Workspace, ods_code: str) -> pa.Table:
    service = NhsAppAccounts(nhs_notify_account(workspace))
    try:
        pages: Sequence[list[tuple[str, bool]]] = list(service.fetch(ods_code))
    except AccountsNotFetched as failure:
        raise Refused(f"{failure}; the last snapshot stays") from None
    finally:
        service.close()
    columns = zip(*(account for page in pages for account in page), strict=True)
    numbers, notified = tuple(columns) or ((), ())
    return pa.Table.from_arrays(
        [pa.array(numbers, pa.string()), pa.array(notified, pa.bool_())], schema=NO_ACCOUNTS.schema
    )
