# mypy: ignore-errors
"""The ids of the bench's 100 items."""

IDS = [f"a{number:02d}" for number in range(100)]
