"""The ledger: a record of every run, and the lease of each dataset."""
