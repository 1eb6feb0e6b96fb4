"""The function that keeps what requests used: messages of `score.outbox` in, Parquet out; and drift, once a day.

It is in the bundle of enrich, which has pyarrow, and not in that of score.
"""
