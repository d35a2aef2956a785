"""The surgery of the whole-batch tests, whose house is worked in here."""

from batch_pipeline_tests.e2e.conftest import surgery

__all__ = ["surgery"]
