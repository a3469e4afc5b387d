"""A model's own videos, turned into a profile."""
