"""A consumer that keeps its own copy of a subject's items, from events and from the read API."""
