"""Events for consumers: what changed in the table of items, on an EventBridge bus (docs/events.md)."""
