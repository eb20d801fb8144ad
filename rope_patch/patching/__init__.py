"""Putting things of vLLM's in place and taking them back: import watch, hooks, replacing, targets."""
