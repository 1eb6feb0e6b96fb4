"""Examples with a real dataset, end to end."""
