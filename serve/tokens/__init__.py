"""Verify bearer tokens: token, keys and policy in, trusted claims out."""
