"""NumPy's memory: Numba's kernels, or array operations if Numba cannot be used."""
