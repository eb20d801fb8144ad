"""On PYTHONPATH, below rope_patch's own: prepares each process of ``vllm serve`` for vllm-ascend's engine
(``machine.py``), since the server starts them, and each is a new interpreter.

Each leaves a file ``started-PID`` in the folder ROPE_PATCH_TEST_STARTED; a forked process, which starts none, does not.
"""

import os
import sys

if sys.orig_argv[1:3] == ["-m", "vllm.entrypoints.cli.main"] or any("spawn_main" in word for word in sys.orig_argv):
    from tests.ascend_stack import machine

    machine.prepare()
    with open(os.path.join(os.environ["ROPE_PATCH_TEST_STARTED"], f"started-{os.getpid()}"), "w"):
        pass
