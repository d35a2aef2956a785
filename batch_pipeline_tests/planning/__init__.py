"""Tests of planning: from a cohort's lines to the plan that a person approves."""
