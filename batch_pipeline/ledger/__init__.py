"""The operational truth about every batch: tables, migrations and the statements that read and write them.

SQLAlchemy Core that means the same on SQLite and PostgreSQL. What is asked of a ``Ledger`` as a whole takes the
ledger; what belongs into a transaction of the caller's takes its ``Connection``.
"""
