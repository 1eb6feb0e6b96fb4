"""Describe a dataset to its consumers in openapi.yaml."""
