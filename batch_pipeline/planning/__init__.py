"""The set work of planning: from a cohort's rows to a plan, in SQL over Parquet.

Each stage is a function of a DuckDB connection and Parquet files, writes new Parquet files and returns
what it counted. No Dagster, no ledger, no clock: what they know comes in as arguments.
"""
