"""Storage and tables: the only room that opens URIs; no torch, no Ray."""
