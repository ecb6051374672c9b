"""Labelled sets for training and evaluation: pairing, reading, statistics and prediction."""
