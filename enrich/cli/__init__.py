"""What the command line shows to a person."""
