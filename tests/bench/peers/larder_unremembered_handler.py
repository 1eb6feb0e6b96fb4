# mypy: ignore-errors
"""Ours, with every token verified anew: what a request costs that is a token's first."""

import serve.tokens.verifier

serve.tokens.verifier.CACHED_SECONDS = 0

from serve.handler import handler  # noqa: E402

__all__ = ["handler"]
