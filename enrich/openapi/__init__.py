"""Build openapi.yaml, the HTTP contract, from the datasets."""
