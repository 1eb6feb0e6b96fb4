"""Generate a dataset's part of openapi.yaml."""
