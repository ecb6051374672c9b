"""The U-Net: its layers, losses, training step and prediction; torch on arrays, no Ray."""
