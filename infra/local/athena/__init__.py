"""Athena on the laptop: the part of its API that enrich uses, with DuckDB, over S3 and Glue of the stand-in.

`server` receives requests, `api` responds, `executions` runs queries in threads, `statement` parses the SQL, `catalog`
reads the tables, `engine` computes, `results` writes the Parquet files of an UNLOAD to S3.

A SELECT returns its columns and no rows: enrich reads rows only from UNLOAD.
"""
