"""Publish models: convert, prove, write a version once, and change the alias. In no bundle."""
