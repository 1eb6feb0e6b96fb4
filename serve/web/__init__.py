"""HTTP without a framework: events to requests, answers to events."""
