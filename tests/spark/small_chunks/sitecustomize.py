"""Python imports this at its start where its folder is on the path: chunks of 250 rows, so that few rows are pieces."""

from typing import Any

from enrich.read import chunks

ROWS = 250
chunks.CHUNK_ROWS = ROWS
readers: Any = (chunks.read_chunks, chunks.read_range, chunks.find_cuts)
for reader in readers:
    reader.__kwdefaults__["chunk_rows"] = ROWS
