"""The first-use check."""
