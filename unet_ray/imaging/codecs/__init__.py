"""Decoders that turn encoded images into arrays, whole or in windows, in a sandboxed process."""
