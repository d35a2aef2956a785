"""Tests of benchmarks/: made-up cohorts, the samples, the baseline."""
