#!/usr/bin/env bash
# Set up what is needed and watch an engine generate, natively and with rope_patch:  scripts/quickstart.sh
#
# On a machine with an NPU and vllm-ascend it uses them. Elsewhere it runs the engine of the newest vllm-ascend on the
# host CANN (tests/host_cann). Where that cannot be, it says why, and runs vLLM's CPU engine, where Triton's interpreter
# runs the kernel for mainline Triton, slowly; the patch is the same.
set -euo pipefail
source "$(dirname "$0")/environments.sh"
cd "$root"
release=$(releases newest)

# Why the host CANN cannot run here; prints nothing if it can. Installs Debian's packages if it may.
obstacle() {
  if [ "$(uname -sm)" != "Linux x86_64" ]; then
    echo "this is $(uname -sm), not x86-64 Linux"
  elif ! python3 -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))'; then
    echo "python3 is $(python3 --version), not 3.11"
  elif ! ascend_packages >&2; then
    echo "Debian packages that it takes are missing"
  fi
}

if command -v npu-smi >/dev/null && python3 -c 'import vllm_ascend' 2>/dev/null; then
  say "an NPU: using the vllm-ascend that is installed"
  python3 -m venv --system-site-packages .venvs/npu
  quietly "installing rope_patch" .venvs/npu/install.log .venvs/npu/bin/pip install --editable .
  exec .venvs/npu/bin/python scripts/quickstart.py
fi
python3 -c 'import ensurepip' 2>/dev/null || packages no-such-command:python3-venv
why=$(obstacle)
if [ -z "$why" ]; then
  say "no NPU: the engine of vllm-ascend $release on a stand-in for CANN (tests/ascend_stack/README.md)"
  stack_environment "$release"
  quietly "building the host CANN" .venvs/host_cann.log ".venvs/stack-$release/bin/python" -m tests.host_cann.build
  say "tiny models, generating"
  exec python3 -m tests.ascend_stack.engine GLM-4 Phi-3 --release "$release"
fi
say "not vllm-ascend's engine, since $why; vLLM's CPU engine instead"
vllm_environment
export TRITON_INTERPRET=1 ROPE_PATCH_TEST_PLATFORM=1
exec .venvs/vllm/bin/python scripts/quickstart.py
