"""The gateway: the ASGI app that takes providers' callbacks into the ledger, and shows patients what their links open. Knows the ledger, and never Dagster."""
