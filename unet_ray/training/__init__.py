"""Training of a U-Net on labelled images with Ray Train, from flags to a model folder."""
