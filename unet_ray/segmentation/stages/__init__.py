"""Stages of the segmentation pipeline: plain callables from table to table, without Ray."""
