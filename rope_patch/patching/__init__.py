"""Replacing attributes of vLLM and putting them back: the import watch, hooks, replacement, targets."""
