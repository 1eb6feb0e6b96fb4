"""Signed HTTP to AWS over standard-library sockets, for the two hot paths: connections, time-outs, retries."""
