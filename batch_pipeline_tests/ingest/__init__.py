"""Tests of `batch_pipeline.ingest`."""
