"""Turn a model's outputs and their metadata into ready-to-serve items: one Lambda, and a command line."""
