"""The HTML report of one date: its facts, charts, pictures and page."""
