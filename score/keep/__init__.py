"""The function for kept features: messages of `score.outbox` in, Parquet out; once a day it measures drift.

It is in the bundle `keep`, which has pyarrow, and not in that of score.
"""
