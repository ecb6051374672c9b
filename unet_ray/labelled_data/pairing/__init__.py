"""Which label belongs to which image, by the names of files."""
