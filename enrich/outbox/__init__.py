"""Events of runs: committed to the ledger with the change that they report, then sent until the bus accepts them."""
