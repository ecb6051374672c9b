"""Parts that several formats share: streams, shapes, features, images that are listed twice."""
