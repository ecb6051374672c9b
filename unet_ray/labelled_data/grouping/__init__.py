"""Which labelled images belong together: pages of a file, tiles of a slide, frames of a clip."""
