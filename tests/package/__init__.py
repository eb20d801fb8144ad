"""rope_patch as a package: the wheel, the cost of importing it, its settings and ways in."""
