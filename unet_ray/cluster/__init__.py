"""Ray without images: sessions, resources, actor pools, Ray Data settings and progress."""
