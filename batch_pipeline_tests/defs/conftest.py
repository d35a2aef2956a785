"""The surgery of the whole-batch tests, whose sensors and jobs are looked at here."""

from batch_pipeline_tests.e2e.conftest import surgery

__all__ = ["surgery"]
