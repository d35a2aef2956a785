"""Messages a cohort of patients from a CSV: one message each, by the best path, every line accounted for."""
