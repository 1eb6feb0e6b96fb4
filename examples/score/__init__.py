"""Worked examples of models that score in real time: each is trained, proved and published by one command."""
