"""Signed HTTP to AWS over sockets of the standard library, for the two hot paths: connections, time-outs, retries."""
