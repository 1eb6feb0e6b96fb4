# mypy: ignore-errors
"""Larder's handler without its token cache: the cost of the first request with a token."""

import serve.tokens.verifier

serve.tokens.verifier.CACHED_SECONDS = 0

from larder_handler import handler  # noqa: E402

__all__ = ["handler"]
