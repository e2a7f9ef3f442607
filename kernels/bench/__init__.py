"""Our kernels beside their peers: one command, one table."""
