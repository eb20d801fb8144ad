"""The released vllm-ascend versions, with the vLLM each was made for, on the host CANN: see ``harness.py``.

One virtual environment each, made by ``stack_environment`` in ``scripts/environments.sh``. The way in::

    .venvs/stack-0.13.0/bin/python -m tests.host_cann.run pytest tests/ascend_stack/test_classes.py
"""
