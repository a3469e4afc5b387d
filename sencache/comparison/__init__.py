"""One comparison: lanes from one noise, their events, measures and report."""
