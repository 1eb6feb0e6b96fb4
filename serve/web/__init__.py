"""HTTP without a framework: parse events into requests, build responses, render them as results of the function."""
