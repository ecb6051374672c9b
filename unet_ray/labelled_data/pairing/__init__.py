"""Pairing of labels and images by the names of files."""
