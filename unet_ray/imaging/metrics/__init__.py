"""Metrics that compare predictions with labels: pixels, objects, boundaries and thresholds."""
