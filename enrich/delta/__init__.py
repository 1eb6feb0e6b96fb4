"""Find out what an output changes: its rows against the fingerprints of the live items."""
