import os
import types

current_platform = types.SimpleNamespace(device_type=os.environ.get("DOUBLE_PLATFORM", "npu"))
