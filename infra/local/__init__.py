"""The laptop's stand-ins for AWS, on loopback only."""
