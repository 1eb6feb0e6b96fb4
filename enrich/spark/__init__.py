"""Spark as the scheduler of pieces; nothing else imports this package, and it is in no Lambda bundle."""
