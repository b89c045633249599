"""Inner loops of TV-L1 on the CPU, compiled by Numba."""
