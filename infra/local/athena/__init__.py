"""Athena on the laptop: what enrich needs of its API, with DuckDB, over the S3 and the Glue of the stand-in.

`server` receives requests, `api` answers them, `executions` runs queries in threads, `statement` parses the SQL,
`catalog` reads the tables, `engine` computes, `results` writes the Parquet of an UNLOAD to S3.

A SELECT returns its columns and no rows: enrich reads rows from UNLOAD only.
"""
