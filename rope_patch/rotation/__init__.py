"""A rotation: the contract, its arguments, the op of compiled graphs, and the dispatch to the kernel."""
