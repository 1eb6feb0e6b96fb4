"""Parts for a laptop or a build: checks of definitions, the models' part of openapi.yaml, a server; in no bundle."""
