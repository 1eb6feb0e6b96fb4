"""Dataset definitions: their types, their mistakes, and the SQL that they become."""

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
