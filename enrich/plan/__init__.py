"""Plan a run: what it would change and cost, without writing."""
