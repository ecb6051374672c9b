"""One file per kind of store; each implements `Backend` in base.py."""
