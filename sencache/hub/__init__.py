"""Profiles from elsewhere: pulled, imported, and published."""
