"""The commands of `python -m enrich`; each module is imported when one of its commands runs."""
