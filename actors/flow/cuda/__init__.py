"""TV-L1 on a GPU by Triton kernels; other packages use `engine` only."""
