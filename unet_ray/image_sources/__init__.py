"""Sources of images: which images a file holds, and how their bytes are read."""
