"""Tools for a laptop: the local server, its documentation page, and keys. Never part of the deployed bundle."""
