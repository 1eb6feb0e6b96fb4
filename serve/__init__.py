"""Answer a trusted token with the items that belong to it: one Lambda that starts fast and imports little."""
