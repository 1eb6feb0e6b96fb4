"""Statistics of an output, and whether they are as the dataset's guards require. No I/O."""
