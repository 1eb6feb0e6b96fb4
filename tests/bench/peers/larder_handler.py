# mypy: ignore-errors
"""Ours: the deployed handler, whole; verified tokens remembered as in production."""

from serve.handler import handler

__all__ = ["handler"]
