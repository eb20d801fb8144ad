"""The stand-in for ``hivmc``, the closed last step of Ascend's compiler: the final program in, host code out.

``bishengir-compile`` looks it up on PATH and calls it as ``hivmc MODULE ... -o NAME``; by then everything else is done:
fusion, buffers and their addresses in the unified buffer, flags between pipes. What comes out executes that program on
this host, instruction by instruction, with the hardware's meaning (``core/``), on one vector core at a time:

* ``program.py``: the program's text, rewritten into upstream MLIR;
* ``lower.py``: MLIR to a shared object, whose entry (``entry.py``) takes the launcher's arguments;
* ``library.py``: the vendor's library of vector functions, which programs call, compiled for this host once.

A program of compiler 1.0.0 is one step less far: ``bishengir-opt --convert-hivm-to-std`` of the library's version takes
that step, so what is executed then is 1.0.0's program with a later library.

What is not implemented is an error that names the instruction and the kernel. Only vector programs are: no cube core.
"""
