"""What a person submits: one job per file, readable from top to bottom."""
