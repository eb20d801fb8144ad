#!/usr/bin/env bash
# Set up what is needed and watch the real vLLM generate, natively and with rope_patch:  scripts/quickstart.sh
#
# On a machine with an NPU and vllm-ascend it uses them. Anywhere else it installs vLLM's CPU engine, and Triton's
# interpreter runs the kernel for mainline Triton, slowly; the patch is the same.
set -euo pipefail
source "$(dirname "$0")/environments.sh"
cd "$root"

if command -v npu-smi >/dev/null && python3 -c 'import vllm_ascend' 2>/dev/null; then
  say "an NPU: using the vllm-ascend that is installed"
  python3 -m venv --system-site-packages .venvs/npu
  quietly "installing rope_patch" .venvs/npu/install.log .venvs/npu/bin/pip install --editable .
  exec .venvs/npu/bin/python scripts/quickstart.py
fi
python3 -c 'import ensurepip' || packages no-such-command:python3-venv
vllm_environment
export TRITON_INTERPRET=1 ROPE_PATCH_TEST_PLATFORM=1
exec .venvs/vllm/bin/python scripts/quickstart.py
