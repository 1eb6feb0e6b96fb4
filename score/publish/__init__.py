"""Publish models: convert, prove, write a version, and change the alias. In no bundle."""
