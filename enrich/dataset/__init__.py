"""Dataset definitions: their types, their validation, and their compilation to SQL."""
