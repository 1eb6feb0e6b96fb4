"""Worked examples of models that score in real time: one command trains, proves and publishes each of them."""
