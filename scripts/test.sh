#!/usr/bin/env bash
# Every test, from a clean clone:  scripts/test.sh
# The fast ones only, a few minutes once the environments exist:  scripts/test.sh fast
#
# Two lanes side by side, for two cores: what runs the real vLLM, and what runs on triton-ascend and without either; the
# lane that is done with its own takes from what is left.
# What a stage prints comes as one block when it ends; a stage that fails fails the whole, and the others go on.
set -euo pipefail
source "$(dirname "$0")/environments.sh"
cd "$root"
fast=${1:-}
case $fast in '' | fast) ;; *) echo "usage: scripts/test.sh [fast]" >&2; exit 2 ;; esac

# Two tests run at a time; more threads than that only get in each other's way (a stack stage took a fifth longer).
export OMP_NUM_THREADS=1

TIMEFORMAT="%U %S"
logs=$(mktemp -d)
trap 'rm -rf "$logs"' EXIT

stage() { # stage NAME COMMAND...
  local name=$1 began=$SECONDS log status=0
  shift
  log=$(mktemp "$logs/XXXXXX")
  say "$name …"
  # A shell of its own: in a function whose failure is looked at, set -e does not hold.
  { time bash -euo pipefail -c 'source scripts/environments.sh; "$@"' stage "$@" >"$log" 2>&1; } 2>"$log.time" || status=$?
  [ $status = 0 ] || echo "$name" >>"$logs/failed"
  printf '%6d s, %6.0f s of a processor  %s\n' $((SECONDS - began)) "$(awk '{ print $1 + $2 }' "$log.time")" \
    "${name:0:100}" >>"$logs/seconds"
  { flock 9; say "$name: exit status $status after $((SECONDS - began)) s"; cat "$log"; } 9>"$logs/lock"
  return $status
}

pytest() { # pytest ENVIRONMENT ARGUMENTS...
  local name=$1
  shift
  stage "tests: $name $*" ".venvs/$name/bin/python" -m pytest -q --durations 3 "$@" || true
}

on_host_cann() { # on_host_cann CHIP ENVIRONMENT ARGUMENTS...
  local chip=$1 name=$2
  shift 2
  HOST_CANN_REQUIRED=1 stage "tests: $name on the host CANN as $chip: $*" \
    ".venvs/$name/bin/python" -m tests.host_cann.run --chip "$chip" pytest -q --durations 3 "${two[@]}" "$@" || true
}

kernel=(tests/kernels/test_{kernel,normed,three_positions,addresses,shortcuts}.py tests/operators tests/serving)
two=(-n 2 --dist worksteal)
not_here=(--ignore tests/host_cann_tests --ignore tests/ascend_kernels --ignore tests/ascend_stack --ignore-glob 'tests/figures/test_clock*.py')

vllm_lane() {
  stage "vllm environment" vllm_environment || return
  stage "style" .venvs/vllm/bin/ruff format --check . || true
  stage "lint" .venvs/vllm/bin/ruff check . || true
  stage "types" .venvs/vllm/bin/mypy || true
  if [ "$fast" ]; then
    pytest vllm "${two[@]}" "${not_here[@]}" --ignore tests/engine --ignore tests/patching/test_vllm.py --ignore tests/patching/test_ray.py
    return
  fi
  # The real vLLM, and mainline Triton's interpreter.
  pytest vllm tests/patching/test_ray.py tests/engine
  pytest vllm "${two[@]}" "${not_here[@]}" --ignore tests/engine --ignore tests/patching/test_ray.py
  shared_stages
}

ascend_lane() {
  # The oldest Python and wrapt, and the newest, with neither torch nor vLLM: hooks, capability, ways in, the package.
  for name in floor newest; do
    stage "$name environment" "${name}_environment" && pytest $name "${two[@]}" "${not_here[@]}"
  done
  [ -z "$fast" ] || return 0
  stage "ascend environment" ascend_environment || return
  # The real torch-npu and triton-ascend, compiling; and what stands in for CANN under them.
  for version in 1.0.0 1.1.0; do stage "compiler $version" compiler "$version" || true; done
  # Their kernels are read by what follows.
  for version in $(releases all); do
    stage "stack-$version environment" stack_environment "$version" || true
  done
  stage "building the host CANN" .venvs/ascend/bin/python -m tests.host_cann.build || return
  touch "$logs/built"
  on_host_cann 910B3 ascend tests/host_cann_tests tests/ascend_kernels
  # Each tensor an allocation of its own, between guard pages, instead of a piece of a block of 2 MiB.
  PYTORCH_NO_NPU_MEMORY_CACHING=1 on_host_cann 910B3 ascend "${kernel[@]}"
  # Another chip differs in its number of cores and its architecture's name: plans and lowered kernels.
  PYTORCH_NO_NPU_MEMORY_CACHING=1 on_host_cann A3 ascend tests/ascend_kernels/test_rope.py
  shared_stages
}

# Environments and tests, longest first. By file, since fixtures of a file are dear here.
shared=()
# The real vLLM and vllm-ascend of each release that is in use.
for version in $(releases classes); do shared+=("stack-$version tests/ascend_stack --dist loadfile"); done
# Post-releases, of which little differs from the one before.
for version in $(releases post); do shared+=("stack-$version tests/ascend_stack/test_post_release.py -n 0"); done
# Those that copy to Ray workers only variables that they know.
for version in $(releases ray); do shared+=("stack-$version tests/patching/test_ray_workers.py"); done
# Those in which nothing is replaced: forks of one process, for which a second worker would only wait.
for version in $(releases older); do shared+=("stack-$version tests/ascend_stack/test_older.py -n 0"); done
# The clock, over our kernel, the seed's and upstream's.
shared+=("ascend tests/figures/test_clock.py tests/figures/test_clock_of_axes.py")

# Runs those that the other lane has not begun. A lane that comes before the host CANN is built leaves all to the other.
shared_stages() {
  local number
  [ -e "$logs/built" ] || return 0
  for number in "${!shared[@]}"; do
    mkdir "$logs/shared-$number" 2>/dev/null || continue
    # shellcheck disable=SC2086  # words
    on_host_cann 910B3 ${shared[number]}
    touch "$logs/shared-$number/ended"
  done
}

# Whatever the reason: a stage that nobody ran is a failure.
lost_stages() {
  local number
  for number in "${!shared[@]}"; do
    [ -e "$logs/shared-$number/ended" ] || echo "not run: ${shared[number]}" >>"$logs/failed"
  done
}

python3 -c 'import ensurepip' || packages no-such-command:python3-venv
packages git:git
if [ "$fast" ]; then packages g++:g++; else ascend_packages; fi
lanes=()
for lane in vllm ascend; do
  ${lane}_lane &
  lanes+=($!)
done
for lane in "${lanes[@]}"; do wait "$lane" || echo "a lane of stages ended with status $?" >>"$logs/failed"; done
[ "$fast" ] || lost_stages
say "seconds of each stage, two at a time:"
sort -rn "$logs/seconds"
say "the slowest tests, and what they had to wait for:"
grep -hsE '^[0-9.]+s (call|setup) ' "$logs"/* | sort -rn | head -n 15 || true
if [ -s "$logs/failed" ]; then
  say "failed:"
  cat "$logs/failed"
  exit 1
fi
say "all passed, in $((SECONDS / 60)) minutes"
