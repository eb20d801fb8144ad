"""On PYTHONPATH, below rope_patch's own: a user's ``sitecustomize``, which here breaks the kernel when told to.

While the folder ROPE_PATCH_TEST_FAULTS has a file ``fails``, no kernel starts; while it has ``wrong``, whose content is
a rank, that rank's rotate by half the position when they rotate in place. So faults come about while an engine serves.
"""

import os
import sys

FOLDER = os.environ.get("ROPE_PATCH_TEST_FAULTS")


def _said(name):
    try:
        with open(os.path.join(FOLDER, name)) as file:
            return file.read()
    except FileNotFoundError:
        return None


def _break(execute, module):
    execute(module)
    right = module.Launch.on

    def on(work, call, *outputs):
        if _said("fails") is not None:
            raise RuntimeError("ub overflow, requires 1600000 bits while 1572864 bits available!")
        if outputs[0] is None and _said("wrong") == str(sys.modules["torch.distributed"].get_rank()):
            call = call._replace(positions=call.positions // 2)
        return right(work, call, *outputs)

    module.Launch.on = on


if FOLDER and "rope_patch.trigger" in sys.modules:
    from rope_patch import trigger

    sys.meta_path.insert(0, trigger.Finder("rope_patch.kernels.launch".__eq__, _break))
