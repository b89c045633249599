"""TV-L1 on a GPU, in Triton's kernels; `engine` is what others use."""
