"""Parse events, find the outputs they refer to, queue runs and execute them in order."""
