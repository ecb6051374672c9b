"""Commands on the tables of an output: read, verify, prune, export and report."""
