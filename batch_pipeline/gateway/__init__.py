"""The gateway: the ASGI app that takes providers' callbacks into the ledger. Knows the ledger, and never Dagster."""
