"""Made-up cohorts of any size, the samples in ``examples/``, and what is timed on them. Not part of the package."""
