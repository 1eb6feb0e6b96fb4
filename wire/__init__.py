"""Signed HTTP to AWS over awscrt, shared by the two hot paths: connections, time-outs, retries."""
