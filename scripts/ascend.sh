#!/usr/bin/env bash
# A command on "an Ascend": the real torch-npu and triton-ascend over tests/host_cann, which needs no NPU. Makes what is
# missing first (some minutes, once).   scripts/ascend.sh [--chip A3] python my_kernel.py
set -euo pipefail
source "$(dirname "$0")/environments.sh"
python3 -c 'import ensurepip' || packages no-such-command:python3-venv
ascend_packages
ascend_environment
PYTHONPATH=$root${PYTHONPATH:+:$PYTHONPATH} exec "$root/.venvs/ascend/bin/python" -m tests.host_cann.run "$@"
