"""The report folder, and the comparison of ranks."""
