"""TV-L1's loops, compiled by Numba: what a CPU spends its time on."""
