"""What is said of this process: counts, log, status, the report folder, and ranks compared."""
