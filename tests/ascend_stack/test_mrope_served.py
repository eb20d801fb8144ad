"""Tokens with three positions on the released stacks: who serves which model, and that the result is right.

The class that the platform selects is called through the method that it is bound to, on ``npu:0``. Witnesses are vLLM's
own ``forward_native`` of that release, in float32, and Hugging Face's rotary code (``hugging_face.py``).

Run in each environment of ``stack_environment``, on the host CANN; see the README.
"""

import hashlib
import importlib.metadata
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from tests.ascend_stack import hugging_face
from tests.ascend_stack.engine import NEWEST
from tests.ascend_stack.harness import Stack, is_ours, needs_stack, start
from tests.ascend_stack.multimodal import MODELS, NUM_TOKENS, Model, build, in_vllm, inputs
from tests.conftest import ROOT, clean_environment
from tests.host_cann import fixture

pytestmark = needs_stack

# Who serves, by policy: npu_mrope where it is right, natively what never dispatches, and our kernel all else.
VENDOR, NATIVE = {"Qwen2-VL", "Qwen2.5-VL", "PaddleOCR-VL"}, {"openPangu-VL"}
# Models that a release's vLLM does not have.
ABSENT = {
    "0.11.0": {"GLM-OCR", "Qwen3.5", "PaddleOCR-VL", "openPangu-VL"},
    "0.13.0": {"GLM-OCR", "Qwen3.5", "openPangu-VL"},
}
# Models that transformers before 5 does not have: where such a one is installed, the vllm environment's is asked too.
NEWER_TRANSFORMERS = {"GLM-OCR", "Qwen3.5", "PaddleOCR-VL", "ERNIE-4.5-VL"}
NO_TRANSFORMERS = {"openPangu-VL"}
CALLS = [(name, request) for name in MODELS for request in ("image", "text")]
CALLS += [(name, "draft") for name in ("GLM-4.1V", "Qwen2.5-VL", "Qwen3-VL", "ERNIE-4.5-VL")]
NEWEST_ONLY = {("Qwen3-VL", "draft"), ("ERNIE-4.5-VL", "draft")}  # for one position a token their kernels are others


@pytest.fixture(scope="module")
def stack() -> Stack:
    import rope_patch  # noqa: F401  (the way in)

    return start()


def lacking() -> set[str]:
    """The models that the installed transformers does not have."""
    return NEWER_TRANSFORMERS if int(importlib.metadata.version("transformers").partition(".")[0]) < 5 else set()


@pytest.fixture(scope="module")
def of_installed(stack: Stack) -> hugging_face.Answers:
    return hugging_face.answers()


@pytest.fixture(scope="module")
def of_newer(stack: Stack, of_installed: hugging_face.Answers, request: pytest.FixtureRequest) -> hugging_face.Answers:
    """Asked once for all releases: its answers stay in pytest's cache until its code, or ours, changes."""
    if not lacking():
        return of_installed
    environment = ROOT / ".venvs" / "vllm"
    if not (environment / "bin" / "python").exists():
        why = "Hugging Face's newer models need it: bash -c '. scripts/environments.sh; vllm_environment'"
        (pytest.fail if os.environ.get(fixture.REQUIRED) else pytest.skip)(f"no {environment}. {why}")
    (installed,) = environment.glob("lib/python3*/site-packages/transformers-*.dist-info")
    code = [Path(hugging_face.__file__), ROOT / "tests" / "ascend_stack" / "multimodal.py"]
    key = hashlib.sha256(b"".join(path.read_bytes() for path in code)).hexdigest()[:8]
    path = request.config.cache.mkdir("hugging_face") / f"{installed.stem}-{key}.pt"
    with FileLock(f"{path}.lock"):
        if not path.exists():
            written = path.with_suffix(".new")
            command = [environment / "bin" / "python", "-m", "tests.ascend_stack.hugging_face", written]
            subprocess.run(command, cwd=ROOT, env=clean_environment(), check=True)
            written.rename(path)
    return stack.torch.load(path)


def call(stack: Stack, embedding: Any, positions: Any, query: Any, key: Any) -> list[Any]:
    """As a model calls it: q and k are views of one qkv."""
    width, kv_width = query.shape[1], key.shape[1]
    qkv = stack.torch.cat((query, key, key), -1).npu()
    with stack.step(embedding, positions.flatten()[:NUM_TOKENS].npu()):
        rotated = embedding(positions.npu(), qkv[:, :width], qkv[:, width : width + kv_width])
    return [x.cpu() for x in rotated]


def of_vllm(stack: Stack, model: Model, positions: Any, query: Any, key: Any) -> Any:
    """By vLLM's PyTorch code, in float32 on the host, with the embedding's cosines as they are."""
    embedding = build(stack, model)
    embedding.cos_sin_cache = embedding.cos_sin_cache.cpu().float()
    cls = type(embedding)
    forward = cls.forward if model.kind == "openpangu" else cls.forward_native
    return forward(embedding, positions, query.float(), key.float())


def close(stack: Stack, actual: Any, wanted: Any, bits: int = 8) -> None:
    """One rounding to bf16, of results about as large as what is rotated."""
    stack.torch.testing.assert_close(actual.float(), wanted.float(), atol=2**-bits, rtol=2**-bits)


@pytest.fixture
def vendor_calls(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The rotary modes that ``npu_mrope`` was called with."""
    import torch_npu

    seen: list[str] = []
    right = torch_npu.npu_mrope

    def watched(*arguments: Any, **named: Any) -> Any:
        seen.append(named["rotary_mode"])
        return right(*arguments, **named)

    monkeypatch.setattr(torch_npu, "npu_mrope", watched)
    return seen


def exists(stack: Stack, name: str) -> bool:
    assert in_vllm(name) == (name not in ABSENT.get(stack.version, ())), f"{name}: ABSENT is not as recorded"
    return in_vllm(name)


@pytest.mark.parametrize(("name", "request_"), CALLS, ids=lambda value: value)
def test_the_selected_class_rotates_as_vllm_and_hugging_face_do(
    stack: Stack,
    of_installed: hugging_face.Answers,
    of_newer: hugging_face.Answers,
    vendor_calls: list[str],
    name: str,
    request_: str,
) -> None:
    import rope_patch
    from rope_patch.patching.targets.ascend_mrope import LEFT_TO_VENDOR
    from rope_patch.reporting import ledger

    if not exists(stack, name):
        pytest.skip(f"the vLLM of {stack.version} has no {name}")
    if (name, request_) in NEWEST_ONLY and stack.version != NEWEST:
        pytest.skip("the newest release is asked")
    model = MODELS[name]
    embedding = build(stack, model)
    kind = stack.rotary_embedding.AscendMRotaryEmbedding
    assert isinstance(embedding, kind) == (model.kind not in ("ernie", "openpangu")), "what vllm-ascend registers"
    positions, query, key = inputs(stack.torch, model, request_)
    ledger.reset()
    rotated = call(stack, embedding, positions, query, key)
    served = ["ours"] * ledger.calls()["eager"] + ["npu_mrope"] * len(vendor_calls)
    assert served == ([] if name in NATIVE else ["npu_mrope"] if name in VENDOR else ["ours"]), rope_patch.status()
    assert ledger.fallbacks() == ({LEFT_TO_VENDOR: 1} if name in VENDOR else {})
    for actual, wanted in zip(rotated, of_vllm(stack, model, positions, query, key), strict=True):
        close(stack, actual, wanted, bits=6 if name in NATIVE else 8)  # operators of PyTorch round at each step
    answer = name, "text" if request_ == "draft" else request_
    assert (answer in of_newer) == (name not in NO_TRANSFORMERS), "NO_TRANSFORMERS is not as recorded"
    assert (answer in of_installed) == (name not in NO_TRANSFORMERS | lacking()), "NEWER_TRANSFORMERS is not"
    for witness in (of_installed, of_newer):
        for actual, wanted in zip(rotated, witness.get(answer, ()), strict=False):
            close(stack, actual, wanted, bits=6)  # its cosines are not rounded to bf16


def test_without_us_pytorchs_operators_serve(stack: Stack) -> None:
    """Fails where upstream has a kernel for one of these: then a target has a reason less."""
    import rope_patch

    profiler = stack.torch.profiler
    rope_patch.disable()
    try:
        for name in ("GLM-4.1V", "GLM-4.5V", "ERNIE-4.5-VL"):
            embedding, tensors = build(stack, MODELS[name]), inputs(stack.torch, MODELS[name], "image")
            with profiler.profile(activities=[profiler.ProfilerActivity.CPU]) as profile:
                call(stack, embedding, *tensors)
            operators = {event.key: event.count for event in profile.key_averages() if event.key.startswith("aten::")}
            assert operators.get("aten::mul", 0) >= 8, f"{name} is no longer rotated by PyTorch: {operators}"
    finally:
        rope_patch.enable()


def test_without_us_glm_ocr_is_silently_wrong(stack: Stack, vendor_calls: list[str]) -> None:
    """vllm-ascend #12765. Fails where upstream heeds the style: then ``targets/ascend_mrope.py`` has a reason less."""
    import rope_patch

    model = MODELS["GLM-OCR"]
    tensors = inputs(stack.torch, model, "image")
    rope_patch.disable()
    try:
        rotated = call(stack, build(stack, model), *tensors)
    finally:
        rope_patch.enable()
    assert vendor_calls == ["half"]
    off = (rotated[0].float() - of_vllm(stack, model, *tensors)[0]).abs().max()
    assert off > 0.5, f"GLM-OCR is right without us now (off by {off}): vllm-ascend #12765 was fixed"
    close(stack, rotated[0], of_vllm(stack, model._replace(is_neox_style=True), *tensors)[0])


def test_all_takes_what_the_vendor_serves(stack: Stack) -> None:
    import rope_patch
    from rope_patch.patching.targets import ascend_mrope
    from rope_patch.reporting import ledger
    from rope_patch.settings import VARIABLE, parse

    model = MODELS["Qwen2.5-VL"]
    tensors = inputs(stack.torch, model, "image")
    rope_patch.disable()
    replacement = ascend_mrope.replacement(stack.rotary_embedding, parse({VARIABLE: "all"}))
    replacement.install()
    try:
        embedding = build(stack, model)
        ledger.reset()
        rotated = call(stack, embedding, *tensors)
    finally:
        replacement.undo()
        rope_patch.enable()
    assert ledger.calls() == {"eager": 1}
    close(stack, rotated[0], of_vllm(stack, model, *tensors)[0])


def test_disabled_a_live_instance_is_native_again_and_no_attribute_is_left(stack: Stack) -> None:
    import rope_patch

    live = [build(stack, MODELS[name]) for name in ("GLM-4.1V", "ERNIE-4.5-VL")]
    assert all(is_ours(embedding._forward_method) for embedding in live)
    rope_patch.disable()
    try:
        for embedding in live:
            assert not is_ours(embedding._forward_method)
            assert not [cls for cls in type(embedding).__mro__ if is_ours(vars(cls).get("forward_oot"))]
    finally:
        rope_patch.enable()
    assert all(is_ours(embedding._forward_method) for embedding in live)


FLIPPED = [("GLM-4.5V", "image"), ("ERNIE-4.5-VL", "image"), ("GLM-4.1V", "draft")]


@pytest.mark.parametrize(("name", "request_"), FLIPPED, ids=lambda value: value)
def test_a_style_that_is_changed_after_construction_counts_where_it_does_natively(
    stack: Stack, name: str, request_: str
) -> None:
    """0.11's native code reads it at each call; newer ones ask a part of the module that was built before."""
    from rope_patch.reporting import ledger

    model = MODELS[name]
    positions, query, key = inputs(stack.torch, model, request_)
    embedding, native = build(stack, model), build(stack, model)
    for changed in (embedding, native):
        changed.is_neox_style = not model.is_neox_style
    native.cos_sin_cache = native.cos_sin_cache.cpu().float()
    wanted = type(native).forward_native(native, positions, query.float(), key.float())
    ledger.reset()
    rotated = call(stack, embedding, positions, query, key)
    assert ledger.calls() == {"eager": 1}, ledger.fallbacks()
    for actual, exact in zip(rotated, wanted, strict=True):
        close(stack, actual, exact)
