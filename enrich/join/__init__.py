"""Join predictions with metadata and render item keys and bodies in embedded DuckDB."""
