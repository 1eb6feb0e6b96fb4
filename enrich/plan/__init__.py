"""Plan a run: show what it would change and cost, without writing."""
