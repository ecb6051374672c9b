"""Pixels: numpy and imaging libraries on arrays and bytes; nothing here opens a URI."""
