"""Meaning of mask values: classes, training targets, crops, markers and border weights."""
