"""Evaluation of a trained model on labelled images."""
