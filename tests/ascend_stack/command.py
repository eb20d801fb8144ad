"""``rope-patch`` on a released vllm-ascend and the host CANN, set up as its worker is before it builds a model:

.venvs/stack-0.23.0/bin/python -m tests.host_cann.run python -m tests.ascend_stack.command verify MODEL
"""

import sys

import rope_patch  # noqa: F401  (the way in)
from rope_patch.cli import main
from tests.ascend_stack import harness

if __name__ == "__main__":
    if why := harness.missing():
        sys.exit(why)
    harness.start()
    sys.exit(main(sys.argv[1:]))
