"""Code shared by several formats: streams, shapes, features, images that are listed twice."""
