environment_variables = {"VLLM_KNOWN": lambda: None}
