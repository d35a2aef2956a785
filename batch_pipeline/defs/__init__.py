"""What Dagster sees, kept thin: one module a stage in pipeline order, with its assets, checks and sensors together."""
