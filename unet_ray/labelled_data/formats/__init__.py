"""Label formats other than mask files, one module per format."""
