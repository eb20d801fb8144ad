import os

HAS_TRITON = os.environ.get("DOUBLE_HAS_TRITON", "1") == "1"
