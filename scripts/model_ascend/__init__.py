"""How long the rotation takes on an Ascend NPU, modelled: no time here was measured.

A kernel is lowered by triton-ascend's own front end; the model walks the Linalg of each kind of program that a launch
has, with the launch's real numbers, and puts what it finds on the queues of a vector core (``program.py``). The launch
takes the time of its slowest program, or that which HBM needs for all of them, after a start (``launch.py``). The rates
are published ones, assumptions, and a few that were fitted to published times (``rates.py``, ``published.py``).

    python -m scripts.model_ascend                      tables
    python -m scripts.model_ascend --json FILE          and a file
    python -m scripts.model_ascend --calibration        only what the model says of published times

What it cannot know:

* what the back-end compiler makes of the Linalg: whether it fuses, reorders, or moves work to the scalar unit;
* whether a load waits for an earlier store to the same tensor, as kernels that work in place might need: assumed not;
* how much of HBM's bandwidth a perfect kernel reaches, and what L2 keeps from one kernel to the next: peak, nothing;
* whether cores disturb each other, other than by sharing HBM;
* the time of an interleaved pair's parting and joining, for which there is no published rate at all.

What it does not understand it refuses, naming the operation (``NotUnderstood``).
"""
