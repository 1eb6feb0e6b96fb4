"""The commands of `./larder`; each module is imported when one of its commands runs."""
