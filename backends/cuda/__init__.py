"""GPU memory: CUDA kernels, through CuPy."""
