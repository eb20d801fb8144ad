"""How long the rotation takes on an Ascend NPU, modelled: no time here was measured by this project.

A kernel is compiled by Huawei's own compiler and executed on this host (``tests/host_cann``). What it did, instruction
by instruction, becomes time by the costs that the vendor and others published:

* ``programs.py``, ``kernels.py``, ``cases.py``: from a kernel and a shape to events, and whether its results are right;
* ``clock.py``: from the events of one program to cycles of one core; ``transfers.py``: what a transfer asks for;
* ``launch.py``: from the programs of a grid to microseconds;
* ``costs.py``: every cost, with its source;
* ``multimodal.py``, ``normed.py``: three positions a token; norm and rotation in one launch;
* ``published.py``, with ``published_kernels.py``, ``samples.py`` and ``handmade.py``: the calibration.

Run it on the host CANN (README.md has its errors, and what it cannot know):

    .venvs/ascend/bin/python -m tests.host_cann.run python -m scripts.model_ascend                      tables
    .venvs/ascend/bin/python -m tests.host_cann.run python -m scripts.model_ascend --json FILE          and a file
    .venvs/ascend/bin/python -m tests.host_cann.run python -m scripts.model_ascend --calibration        published times

An instruction that it knows no cost for it refuses by name.
"""
