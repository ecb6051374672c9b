"""Labels in map coordinates, and the images that they lie on."""
