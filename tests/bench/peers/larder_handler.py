# mypy: ignore-errors
"""Larder's deployed handler; verified tokens are cached as in production."""

from serve.handler import handler

__all__ = ["handler"]
