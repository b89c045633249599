"""A resumable pool of Ray workers over rows, its ledger, and its progress."""
