"""Replacing attributes of vLLM and putting them back."""
