"""What a night found, as one page: facts, drift, charts, pictures."""
