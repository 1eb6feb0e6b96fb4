"""What only a laptop or a build has: checks of definitions, the part of openapi.yaml, a server; not in the bundle."""
