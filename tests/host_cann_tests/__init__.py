"""Tests of ``tests/host_cann`` itself."""
