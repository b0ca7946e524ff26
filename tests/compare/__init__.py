"""pyvmm compare."""
