"""What this process was started with, kept when rope_patch is imported: settings are fixed from then on.

Of the standard library only ``os``: this is imported into processes that never use vLLM.
"""

import os

VERSION = "0.1.0"
PREFIX = "VLLM_ASCEND_TRITON_ROPE"
variables = {name: value for name, value in os.environ.items() if name.startswith(PREFIX)}
