"""A pool of Ray actors that works through rows, its ledger and its progress."""
