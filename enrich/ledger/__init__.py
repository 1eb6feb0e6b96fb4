"""The ledger: what every run did, and who holds a dataset."""
