"""Finished comparisons as cards: folders that are small enough for a page and prove themselves."""
