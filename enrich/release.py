"""Larder's release, defined only here. CONTRIBUTING.md describes how to make a release."""

from __future__ import annotations

RELEASE = "0.1.0"
