"""Render runs for the terminal."""
