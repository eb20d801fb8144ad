"""rope_patch as a package: what is built, what importing it costs, its settings and ways in."""
