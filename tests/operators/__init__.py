"""The contract of a rotation, the dispatch and the op."""
