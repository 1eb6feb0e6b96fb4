"""Turn a model's outputs and their metadata into items that are ready to serve: one Lambda, and a command line."""
