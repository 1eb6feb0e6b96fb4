"""Real datasets end to end."""
