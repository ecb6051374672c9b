"""Files, labels, models and tables that were changed at random."""
