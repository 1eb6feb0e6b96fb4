"""The console: pages about datasets, runs and rejects, on loopback or as files. On a laptop or in CI, in no bundle."""
