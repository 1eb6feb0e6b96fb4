"""What wakes enrich, which outputs that means, and in which order they run."""
