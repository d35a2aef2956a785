"""What every asset has in common: one partition a batch, and who looks after it."""

import dagster as dg

BATCHES = dg.DynamicPartitionsDefinition(name="batch")
"""Keys are batch ids, ``[a-z0-9][a-z0-9-]{0,62}``: Dagster takes any text, so they are checked before they are added."""

OWNERS = ["team:messaging"]
