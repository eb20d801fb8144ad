"""What this process reports: counts, log, status, the report folder, and the comparison of ranks."""
