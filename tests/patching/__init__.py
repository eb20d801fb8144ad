"""Putting things of vLLM's in place and taking them back."""
