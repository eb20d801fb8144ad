#!/usr/bin/env bash
# Every test, from a clean clone:  scripts/test.sh
# The fast ones only, a few minutes once the environments exist:  scripts/test.sh fast
set -euo pipefail
source "$(dirname "$0")/environments.sh"
cd "$root"
fast=${1:-}
case $fast in '' | fast) ;; *) echo "usage: scripts/test.sh [fast]" >&2; exit 2 ;; esac

python3 -c 'import ensurepip' || packages no-such-command:python3-venv
packages git:git
ascend_packages
vllm_environment
ascend_environment
floor_environment
newest_environment

pytest() { # pytest ENVIRONMENT ARGUMENTS...
  local name=$1
  shift
  say "tests: $name $*"
  "$root/.venvs/$name/bin/python" -m pytest -q "$@"
}

on_host_cann() { # on_host_cann CHIP ENVIRONMENT ARGUMENTS...
  local chip=$1 name=$2
  shift 2
  say "tests: $name on the host CANN as $chip: $*"
  HOST_CANN_REQUIRED=1 "$root/.venvs/$name/bin/python" -m tests.host_cann.run --chip "$chip" pytest -q \
    -n 2 --dist worksteal "$@"
}

say "style and types"
.venvs/vllm/bin/ruff format --check .
.venvs/vllm/bin/ruff check .
.venvs/vllm/bin/mypy

kernel=(tests/test_kernel.py tests/test_rotary.py tests/test_calls.py tests/test_op.py tests/test_selfcheck.py)
two=(-n 2 --dist worksteal)
# The oldest Python and wrapt, and the newest, with neither torch nor vLLM: hooks, capability, ways in, the package.
not_here=(--ignore-glob '*test_host_cann_*' --ignore-glob '*test_ascend_stack*')
pytest floor "${two[@]}" "${not_here[@]}"
pytest newest "${two[@]}" "${not_here[@]}"
# Triton-Ascend's interpreter, which runs the variant of the kernel that ships.
pytest ascend "${two[@]}" "${kernel[@]}" tests/test_addresses.py
if [ "$fast" ]; then
  pytest vllm "${two[@]}" "${not_here[@]}" --ignore tests/engine --ignore tests/test_vllm_target.py --ignore tests/test_ray.py
  exit
fi
# The real torch-npu and triton-ascend, compiling; and what stands in for CANN under them.
say "building the host CANN"
.venvs/ascend/bin/python -m tests.host_cann.build
on_host_cann 910B3 ascend tests/test_host_cann_*.py
on_host_cann A3 ascend tests/test_host_cann_rope.py
# Each tensor an allocation of its own, between guard pages, instead of a piece of a block of 2 MiB.
for chip in 910B3 A3; do PYTORCH_NO_NPU_MEMORY_CACHING=1 on_host_cann $chip ascend "${kernel[@]}"; done
# The real vLLM and vllm-ascend of each release that is in use.
for version in 0.11.0 0.13.0 0.18.0 0.23.0; do
  stack_environment "$version"
  on_host_cann 910B3 "stack-$version" tests/test_ascend_stack*.py
done
# Those that copy to Ray workers only variables that they know.
for version in 0.11.0 0.13.0; do
  on_host_cann 910B3 "stack-$version" tests/test_ray_workers.py
done
# The model of time on Ascend, over our kernel, the seed's and upstream's.
TRITON_INTERPRET=0 pytest ascend tests/test_ascend_model.py
# Mainline Triton's interpreter, and the real vLLM.
pytest vllm "${two[@]}" "${not_here[@]}" --ignore tests/engine --ignore tests/test_ray.py
pytest vllm tests/test_ray.py tests/engine
