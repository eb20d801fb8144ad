"""What a block with rotary embedding becomes in graph mode, in this process, whatever rope_patch does in it.

The block is that of a model with query and key norms (Qwen3): split qkv, two norms, rotary embedding. It is traced with
``torch.compile(fullgraph=True)`` and handed to the compiler that vllm-ascend gives vLLM: ``AscendCompiler``, by its
fusion passes and by npugraph_ex; vLLM's own ``EagerAdaptor`` on 0.11, which has none. The fusion pass is the real
``QKNormRopeFusionPass``, applied to a copy of the graph, since the fused operator needs an NPU; one
attention layer is registered for it, as a model would.
"""

import contextlib
import copy
import functools
import importlib
import logging
import os
import re
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator
from types import SimpleNamespace
from typing import Any, TypedDict

from tests.ascend_stack import harness
from tests.ascend_stack.models import LLAMA3, YARN

HEADS, KV_HEADS, NUM_TOKENS = 8, 2, 5
# name: kind, its parameters, head_size, rotary_dim, NeoX or GPT-J
CASES: dict[str, tuple[str, dict[str, Any], int, int, bool]] = {
    "full 128": ("default", {}, 128, 128, True),
    "partial": ("default", {}, 128, 64, True),
    "GPT-J 128": ("default", {}, 128, 128, False),
    "full 64": ("default", {}, 64, 64, True),
    "yarn": ("yarn", YARN, 64, 64, True),
    "llama3": ("llama3", LLAMA3, 128, 128, True),
}


class Observation(TypedDict, total=False):
    """``ops`` are the operators in the graph that the fusion passes see, if they run; ``executed`` those that ran."""

    ops: dict[str, int]
    matches: int  # of the fusion pass
    executed: list[str]
    fallbacks: dict[str, int]  # rope_patch's, while tracing and running
    error: float  # largest difference to the fp32 reference
    raised: str
    complaints: list[str]  # Python warnings and logged ones


def block(embedding: Any) -> Any:
    head_size = embedding.head_size
    widths = [HEADS * head_size, KV_HEADS * head_size, KV_HEADS * head_size]

    def norm(x: Any, weight: Any) -> Any:
        by_head = x.view(*x.shape[:-1], x.shape[-1] // head_size, head_size)
        return torch.ops.npu.npu_rms_norm(by_head, weight, 1e-6)[0].view(x.shape)

    import torch

    def forward(qkv: Any, q_weight: Any, k_weight: Any, positions: Any) -> Any:
        q, k, v = qkv.split(widths, dim=-1)
        q, k = embedding(positions, norm(q, q_weight), norm(k, k_weight))
        return q, k, v

    return forward


def cache_key() -> str:
    """The environment's part of the key of vLLM's compile cache."""
    from vllm import envs

    if compile_factors := getattr(envs, "compile_factors", None):
        return str(sorted(compile_factors().items()))
    return str(envs.compute_hash())


@functools.cache  # 0.18 and later register a pattern once per process
def fusion_pass(stack: harness.Stack) -> Any:
    """The real fusion pass for a bfloat16 model whose attention has the block's heads; None in releases without one."""
    try:
        module = importlib.import_module("vllm_ascend.compilation.passes.qknorm_rope_fusion_pass")
    except ModuleNotFoundError:
        return None
    from vllm.config import set_current_vllm_config

    text = SimpleNamespace()
    model = SimpleNamespace(
        dtype=stack.torch.bfloat16, use_mla=False, hf_text_config=text, hf_config=text, get_head_size=lambda: 128,
        is_multimodal_raw_input_only_model=False,
    )  # fmt: skip
    config = SimpleNamespace(**(vars(stack.config) | {"model_config": model}))
    layer = SimpleNamespace(head_size=128, num_heads=HEADS, num_kv_heads=KV_HEADS)
    module.get_layers_from_vllm_config = lambda *arguments: {"layer": layer}
    with set_current_vllm_config(stack.config):
        return module.QKNormRopeFusionPass(config)


class Passes:
    """Replaces vllm-ascend's pass manager: records the graph, and what the fusion pass finds in a copy of it."""

    def __init__(self) -> None:
        self.fusion: Any = None
        self.seen = Observation()

    def __call__(self, graph: Any, *arguments: Any) -> Any:
        self.seen["ops"] = operators(graph)
        if self.fusion is not None:
            self.fusion(copy.deepcopy(graph).graph)
            self.seen["matches"] = self.fusion.matched_count
        return graph


def operators(graph: Any) -> dict[str, int]:
    return dict(Counter(str(node.target) for node in graph.graph.nodes if node.op == "call_function"))


def compilers(stack: harness.Stack, passes: Passes) -> dict[str, Any]:
    """Dynamo back ends, by path, which call vllm-ascend's compiler as vLLM does."""
    try:
        from vllm_ascend.compilation.compiler_interface import AscendCompiler
    except ModuleNotFoundError:
        from vllm.compilation.compiler_interface import EagerAdaptor

        def adaptor(graph: Any, inputs: Any) -> Any:
            passes(graph)
            return EagerAdaptor().compile(graph, inputs, {}, None, "key")[0]

        return {"eager adaptor": adaptor}
    from vllm.config.utils import Range
    from vllm_ascend.ascend_config import get_ascend_config
    from vllm_ascend.utils import COMPILATION_PASS_KEY

    switches = get_ascend_config()
    if not hasattr(switches, "enable_npugraph_ex"):  # 0.18 and later
        switches = switches.ascend_compilation_config

    def path(enable_npugraph_ex: bool) -> Any:
        def compiler(graph: Any, inputs: Any) -> Any:
            ascend = AscendCompiler()
            ascend.vllm_config = stack.config  # where compute_hash stores it
            switches.enable_npugraph_ex = enable_npugraph_ex
            return ascend.compile(graph, inputs, {COMPILATION_PASS_KEY: passes}, Range(1, 8), "key")[0]

        return compiler

    return {"fusion passes": path(False), "npugraph_ex": path(True)}


@contextlib.contextmanager
def complaints() -> Iterator[list[str]]:
    """Collects everything that is warned of or logged as a warning inside, with numbers and addresses removed."""
    found: list[str] = []

    def note(text: str) -> None:
        found.append(re.sub(r"(0x)?[0-9a-f]*\d[0-9a-f]*", "N", text.replace(os.getcwd(), ".")))

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            note(record.getMessage())

    handler = Handler(logging.WARNING)
    loggers = [logging.getLogger(name) for name in (None, "vllm", "torch")]
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = lambda message, category, *_: note(f"{category.__name__}: {message}")
        for logger in loggers:
            logger.addHandler(handler)
        try:
            yield found
        finally:
            for logger in loggers:
                logger.removeHandler(handler)


def observe(stack: harness.Stack, case: str, compiler: Any, passes: Passes) -> Observation:
    from rope_patch.operators.reference import rotate
    from rope_patch.operators.rotation import Rotation
    from rope_patch.reporting import ledger

    torch = stack.torch
    ledger.reset()
    kind, parameters, head_size, rotary_dim, is_neox_style = CASES[case]
    embedding = stack.build(kind, head_size, rotary_dim, is_neox_style=is_neox_style, **parameters)
    torch.manual_seed(0)
    qkv = torch.randn(NUM_TOKENS, (HEADS + 2 * KV_HEADS) * head_size).bfloat16()
    weights = [torch.randn(head_size).bfloat16() for _ in range(2)]
    positions = torch.randint(1, harness.MAX_POSITION, (NUM_TOKENS,))
    arguments = [tensor.npu() for tensor in (qkv, *weights, positions)]
    for tensor in (arguments[0], arguments[3]):
        torch._dynamo.mark_dynamic(tensor, 0)
    torch._dynamo.reset()
    passes.seen = Observation()
    with complaints() as found, stack.step(embedding, arguments[3]), torch.no_grad():
        try:
            compiled = torch.compile(block(embedding), fullgraph=True, backend=compiler)
            compiled(*arguments)
            arguments[0] = qkv.npu()  # since rotating in place may have changed it
            with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
                after = compiled(*arguments)
            passes.seen["executed"] = sorted({event.key for event in profile.key_averages()})
        except Exception as raised:
            chain: list[BaseException] = [raised]
            while inner := chain[-1].__cause__:
                chain.append(inner)
            passes.seen["raised"] = f"{type(chain[-1]).__name__}: {chain[-1]}"[:300]
            after = ()
    passes.seen["complaints"], passes.seen["fallbacks"] = sorted(set(found)), dict(ledger.fallbacks())
    for rotated, width, weight in zip(after, (0, HEADS), weights, strict=False):
        heads = qkv.unflatten(-1, (-1, head_size))[:, width:][:, : rotated.shape[-1] // head_size]
        normed = torch.nn.functional.rms_norm(heads.float(), (head_size,), weight.float(), 1e-6).bfloat16()
        wanted = rotate(
            positions, normed, embedding.cos_sin_cache.cpu(), Rotation(normed.shape[-1], rotary_dim, is_neox_style)
        )
        error = (rotated.cpu().view(wanted.shape).float() - wanted.float()).abs().max().item()
        passes.seen["error"] = max(error, passes.seen.get("error", 0.0))
    return passes.seen


def table(stack: harness.Stack, names: Iterable[str] = CASES) -> dict[str, dict[str, Observation]]:
    """``{path: {case: Observation}}``. For paths that end in "CI", ``CI`` is set in the environment."""
    passes = Passes()
    found: dict[str, dict[str, Observation]] = {path: {} for path in compilers(stack, passes)}
    aliasing = stack.torch._functorch.config.patch
    # A model of another head size registers no pattern, and a pattern once registered stays.
    for head_size in (64, 128):
        if head_size == 128:
            passes.fusion = fusion_pass(stack)
        for path, compiler in compilers(stack, passes).items():
            for case in names:
                if CASES[case][2] == head_size:
                    with aliasing(error_on_custom_op_aliasing=False):
                        found[path][case] = observe(stack, case, compiler, passes)
    for path, compiler in compilers(stack, passes).items():
        with aliasing(error_on_custom_op_aliasing=True):
            found[f"{path}, CI"] = {case: observe(stack, case, compiler, passes) for case in ("partial", "llama3")}
    return found
