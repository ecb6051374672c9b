"""Groups of labelled images: pages of a file, tiles of a slide, frames of a clip."""
