"""Synthetic clips, and the training and checking of the bundled models."""
