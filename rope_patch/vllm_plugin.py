"""The ``vllm.general_plugins`` entry point, which vLLM runs in its parser, its engine core and every worker."""


def register() -> None:
    """Nothing to do: loading this module imported ``rope_patch``, and that is what switches it on."""
