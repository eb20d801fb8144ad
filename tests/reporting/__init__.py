"""The report folder, and ranks compared."""
