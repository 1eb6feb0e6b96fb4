"""Hypothesis without deadlines: the first query of a DuckDB is slow."""

from hypothesis import settings

settings.register_profile("engine", deadline=None)
settings.load_profile("engine")
