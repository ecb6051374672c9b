"""Bytes at URIs: the only package that opens them."""
