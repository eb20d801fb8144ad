#!/usr/bin/env bash
# Every test, from a clean clone:  scripts/test.sh
# The fast ones only, two minutes once the environments exist:  scripts/test.sh fast
set -euo pipefail
source "$(dirname "$0")/environments.sh"
cd "$root"
fast=${1:-}
case $fast in '' | fast) ;; *) echo "usage: scripts/test.sh [fast]" >&2; exit 2 ;; esac

vllm_environment
ascend_environment
floor_environment

pytest() { # pytest ENVIRONMENT ARGUMENTS...
  local name=$1
  shift
  say "tests: $name"
  "$root/.venvs/$name/bin/python" -m pytest -q "$@"
}

say "style and types"
.venvs/vllm/bin/ruff format --check .
.venvs/vllm/bin/ruff check .
.venvs/vllm/bin/mypy

# The oldest Python and wrapt, and neither torch nor vLLM: hooks, capability, ways in, the package itself.
pytest floor
# Triton-Ascend's interpreter, which runs the variant of the kernel that ships, and its front end.
pytest ascend tests/test_kernel.py tests/test_addresses.py tests/test_rotary.py tests/test_op.py tests/test_selfcheck.py tests/test_lowering.py
# Mainline Triton's interpreter, and the real vLLM.
if [ "$fast" ]; then
  pytest vllm --ignore tests/engine --ignore tests/test_vllm_target.py
else
  pytest vllm
fi
