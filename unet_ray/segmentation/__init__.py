"""Segmentation of an image archive on Ray Data, from the plan of a run to its Parquet shards."""
