"""The command rope-patch."""
