"""Athena on the laptop: its API over DuckDB, over the S3 and the Glue of the stand-in; each module a step of a query.

`server` takes requests, `api` answers them, `executions` runs queries in threads, `statement` understands the SQL,
`catalog` reads the tables, `engine` computes, `results` writes what Athena would write to S3.
"""
