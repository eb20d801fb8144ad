"""Figures in the README, and the clock that models an NPU's times."""
