"""Token and features -> a prediction, now: the third Lambda."""
