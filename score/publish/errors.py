"""What ends a command with a message: one exception, whose text has the place, what was found, and the remedy."""

from __future__ import annotations


class Refused(Exception):
    """A model, its rows, a version or an alias is not accepted; nothing that serves has changed."""
