"""Synthetic data: photographs distorted in known ways, with labels and texts made from what is known."""
