"""The stand-in for ``bishengir-compile``, the Ascend back-end compiler: Linalg in, a host shared object out.

Its contract is what triton-ascend 3.2.0 expects of the real one: the input file, options, ``-o NAME`` and the output in
``NAME.o``; a non-zero exit and a message on stderr when it refuses. It refuses what the chip has no room for
(``ub.py``) and chips Triton-Ascend has no back end for.

Arithmetic is not contracted: a product is rounded before it is added to, so results can be compared bit by bit with
PyTorch's fp32. The real compiler may fuse; that is the one place where its numbers may differ from these.
"""
