"""The operators: what is asked, which tensors they take, their references, their kernels; and their ops for graphs."""
