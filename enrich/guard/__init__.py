"""Statistics of an output, and whether they meet the dataset's guards. No I/O."""
