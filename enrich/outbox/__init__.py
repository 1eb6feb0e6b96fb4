"""Events of runs: committed to the ledger with what they report, and sent from there until the bus accepts them."""
