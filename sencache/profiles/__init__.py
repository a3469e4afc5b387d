"""Calibrated constants of one checkpoint on one schedule: read, checked, drawn."""
