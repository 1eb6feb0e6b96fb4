"""Larder's release: the only place that has it. CONTRIBUTING.md says how a release is made."""

from __future__ import annotations

RELEASE = "0.1.0"
