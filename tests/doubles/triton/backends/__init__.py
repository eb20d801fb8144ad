import os

backends = dict.fromkeys(os.environ.get("DOUBLE_TRITON_BACKENDS", "ascend").split())
