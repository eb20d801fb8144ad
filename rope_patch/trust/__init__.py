"""Which kernels may serve which calls: the first-use check, and the reference that it compares with."""
