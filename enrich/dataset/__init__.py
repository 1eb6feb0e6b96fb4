"""Dataset definitions: their types, their validation, and their compilation to SQL."""

from enrich.dataset.definition import (
    BadAsOf,
    Dataset,
    Derive,
    FromColumn,
    FromKey,
    LastModified,
    Metadata,
    Source,
    Tolerated,
    parse_as_of,
)

__all__ = [
    "BadAsOf",
    "Dataset",
    "Derive",
    "FromColumn",
    "FromKey",
    "LastModified",
    "Metadata",
    "Source",
    "Tolerated",
    "parse_as_of",
]
