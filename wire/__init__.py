"""Signed HTTP to AWS over standard-library sockets, for the two hot paths: connections, time-outs, retries.

Also what all programs need of a process: its folder on scratch disk (`wire.scratch`).
"""
