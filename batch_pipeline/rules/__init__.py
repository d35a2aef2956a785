"""The domain: tables as data, pure functions, and SQL expressions as strings. No Dagster, no I/O, no clock."""
