"""The U-Net: torch on arrays, no Ray."""
