"""One file per kind of store; `Backend` in base.py is what each of them does."""
