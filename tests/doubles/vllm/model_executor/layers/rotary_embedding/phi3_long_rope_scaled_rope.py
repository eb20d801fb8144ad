"""Stands in for vLLM's module of that name; what is replaced there is stood in for by the tests that import it."""
