#!/usr/bin/env bash
# Every test, from a clean clone:  scripts/test.sh
# The fast ones only, a few minutes once the environments exist:  scripts/test.sh fast
#
# Two lanes side by side, for two cores: what runs the real vLLM, and what runs on triton-ascend and without either.
# What a stage prints comes as one block when it ends; a stage that fails fails the whole, and the others go on.
set -euo pipefail
source "$(dirname "$0")/environments.sh"
cd "$root"
fast=${1:-}
case $fast in '' | fast) ;; *) echo "usage: scripts/test.sh [fast]" >&2; exit 2 ;; esac

logs=$(mktemp -d)
trap 'rm -rf "$logs"' EXIT

stage() { # stage NAME COMMAND...
  local name=$1 began=$SECONDS log status=0
  shift
  log=$(mktemp "$logs/XXXXXX")
  say "$name …"
  # A shell of its own: in a function whose failure is looked at, set -e does not hold.
  bash -euo pipefail -c 'source scripts/environments.sh; "$@"' stage "$@" >"$log" 2>&1 || status=$?
  [ $status = 0 ] || echo "$name" >>"$logs/failed"
  { flock 9; say "$name: exit status $status after $((SECONDS - began)) s"; cat "$log"; } 9>"$logs/lock"
  return $status
}

pytest() { # pytest ENVIRONMENT ARGUMENTS...
  local name=$1
  shift
  stage "tests: $name $*" ".venvs/$name/bin/python" -m pytest -q "$@" || true
}

on_host_cann() { # on_host_cann CHIP ENVIRONMENT ARGUMENTS...
  local chip=$1 name=$2
  shift 2
  HOST_CANN_REQUIRED=1 stage "tests: $name on the host CANN as $chip: $*" \
    ".venvs/$name/bin/python" -m tests.host_cann.run --chip "$chip" pytest -q "${two[@]}" "$@" || true
}

kernel=(tests/test_{kernel,rotary,calls,shortcuts,op,selfcheck}.py)
two=(-n 2 --dist worksteal)
not_here=(--ignore-glob '*test_host_cann_*' --ignore-glob '*test_ascend_stack*' --ignore-glob '*test_ascend_engine*'
  --ignore-glob '*test_vector_core_*' --ignore tests/test_ascend_model.py)

vllm_lane() {
  stage "vllm environment" vllm_environment || return
  stage "style" .venvs/vllm/bin/ruff format --check . || true
  stage "lint" .venvs/vllm/bin/ruff check . || true
  stage "types" .venvs/vllm/bin/mypy || true
  if [ "$fast" ]; then
    pytest vllm "${two[@]}" "${not_here[@]}" --ignore tests/engine --ignore tests/test_vllm_target.py --ignore tests/test_ray.py
    return
  fi
  # The real vLLM, and mainline Triton's interpreter.
  pytest vllm tests/test_ray.py tests/engine
  pytest vllm "${two[@]}" "${not_here[@]}" --ignore tests/engine --ignore tests/test_ray.py
}

ascend_lane() {
  # The oldest Python and wrapt, and the newest, with neither torch nor vLLM: hooks, capability, ways in, the package.
  for name in floor newest; do
    stage "$name environment" "${name}_environment" && pytest $name "${two[@]}" "${not_here[@]}"
  done
  stage "ascend environment" ascend_environment || return
  # Triton-Ascend's interpreter, which runs the variant of the kernel that ships.
  pytest ascend "${two[@]}" "${kernel[@]}" tests/test_addresses.py
  [ -z "$fast" ] || return 0
  # The real torch-npu and triton-ascend, compiling; and what stands in for CANN under them.
  for version in 1.0.0 1.1.0; do stage "compiler $version" compiler "$version" || true; done
  stage "building the host CANN" .venvs/ascend/bin/python -m tests.host_cann.build || return
  on_host_cann 910B3 ascend tests/test_{host_cann,vector_core}_*.py
  # Each tensor an allocation of its own, between guard pages, instead of a piece of a block of 2 MiB.
  PYTORCH_NO_NPU_MEMORY_CACHING=1 on_host_cann 910B3 ascend "${kernel[@]}"
  # Another chip differs in its number of cores and its architecture's name: plans, lowered kernels and the op.
  PYTORCH_NO_NPU_MEMORY_CACHING=1 on_host_cann A3 ascend tests/test_host_cann_rope.py tests/test_op.py
  # The real vLLM and vllm-ascend of each release that is in use.
  for version in 0.11.0 0.13.0 0.18.0 0.23.0; do
    stage "stack-$version environment" stack_environment "$version" &&
      on_host_cann 910B3 "stack-$version" tests/test_ascend_{stack,engine}*.py
  done
  # Those that copy to Ray workers only variables that they know.
  for version in 0.11.0 0.13.0; do
    on_host_cann 910B3 "stack-$version" tests/test_ray_workers.py
  done
  # The clock, over our kernel, the seed's and upstream's.
  on_host_cann 910B3 ascend tests/test_ascend_model.py
}

python3 -c 'import ensurepip' || packages no-such-command:python3-venv
packages git:git
ascend_packages
vllm_lane &
ascend_lane &
wait
if [ -s "$logs/failed" ]; then
  say "failed:"
  cat "$logs/failed"
  exit 1
fi
say "all passed, in $((SECONDS / 60)) minutes"
