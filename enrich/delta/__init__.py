"""Determine what an output changes, by comparing its rows with the fingerprints of the live items."""
