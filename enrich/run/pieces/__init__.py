"""The passes of a run in pieces: tasks that a scheduler executes on many machines, and the driver that trusts them."""
