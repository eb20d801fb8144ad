"""The version, and rope_patch's environment variables as they were when rope_patch was imported.

Imports only ``os``, since processes that never use vLLM import this file too.
"""

import os

VERSION = "0.2.0"
PREFIX = "VLLM_ASCEND_TRITON_ROPE"
variables = {name: value for name, value in os.environ.items() if name.startswith(PREFIX)}
