"""On PYTHONPATH, below rope_patch's own: prepares each process of ``vllm serve`` for vllm-ascend's engine
(``machine.py``), since the server starts them, and each is a new interpreter.
"""

import sys

if sys.orig_argv[1:3] == ["-m", "vllm.entrypoints.cli.main"] or any("spawn_main" in word for word in sys.orig_argv):
    from tests.ascend_stack import machine

    machine.prepare()
