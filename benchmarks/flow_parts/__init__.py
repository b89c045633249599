"""What `benchmarks/flow.py` measures, a section per module."""
