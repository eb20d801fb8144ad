"""A rotation: the contract, its arguments, the op for compiled graphs, and the dispatch to the kernel."""
