"""serve and score in a container: an ASGI application over their handlers, in processes (docs/containers.md)."""
