"""The kernel, its plans and its launch."""
