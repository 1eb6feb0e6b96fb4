"""The exception that ends a command; its text has the place, what was found, and the remedy."""

from __future__ import annotations


class Refused(Exception):
    """A model, its rows, a version or an alias is not accepted; the versions that serve have not changed."""
