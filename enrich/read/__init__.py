"""Read outputs and metadata from S3 as Arrow."""
