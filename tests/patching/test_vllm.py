"""The target on the real vLLM: which classes are served, what a live model calls, and the undo."""

import json
from typing import Any

import pytest

from rope_patch.settings import NAMES, VARIABLE
from tests.conftest import ROOT, Run

pytest.importorskip("vllm", reason="needs the real vLLM")
import rope_patch_test_platform  # noqa: F401  (where vLLM is installed, its absence is an error and not a reason to skip)

ENVIRONMENT = {"ROPE_PATCH_TEST_PLATFORM": "1", "TRITON_INTERPRET": "1", "VLLM_LOGGING_LEVEL": "ERROR"}
PRELUDE = f"""
import sys
sys.path.insert(0, {str(ROOT / "tests")!r})
import torch
import rope_patch
from rope_patch.reporting import ledger
from vllm.config import CompilationConfig, VllmConfig, set_current_vllm_config
from vllm.model_executor.layers.rotary_embedding import get_rope
from vllm.model_executor.layers.rotary_embedding.base import RotaryEmbedding
from vllm.model_executor.custom_op import CustomOp
context = set_current_vllm_config(VllmConfig(compilation_config=CompilationConfig(custom_ops=["all"])))
context.__enter__()
torch.manual_seed(0)
def inputs(T=5, H=4, K=2, D=64):
    qkv = torch.randn(T, (H + 2 * K) * D)
    return torch.randint(0, 100, (T,)), qkv[:, : H * D], qkv[:, H * D : (H + K) * D]
def rope(kind="default", D=64, **parameters):
    # get_rope caches its objects and would return the same one again.
    from vllm.model_executor.layers import rotary_embedding
    rotary_embedding._ROPE_DICT.clear()
    parameters = {{"rope_type": kind, "rope_theta": 10000.0, **parameters}}
    return get_rope(D, 128, dtype=torch.float32, rope_parameters=parameters)
"""
KINDS = {
    "RotaryEmbedding": '"default"',
    "Llama3RotaryEmbedding": '"llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, '
    "original_max_position_embeddings=64",
    "LinearScalingRotaryEmbedding": '"linear", factor=2.0',
    "DynamicNTKScalingRotaryEmbedding": '"dynamic", factor=2.0',
    "NTKScalingRotaryEmbedding": '"ntk", factor=2.0',
    "YaRNScalingRotaryEmbedding": '"yarn", factor=2.0, original_max_position_embeddings=64',
    "DynamicNTKAlphaRotaryEmbedding": '"dynamic", alpha=2.0',
    "Gemma4RotaryEmbedding": '"proportional", partial_rotary_factor=0.5',
}


@pytest.fixture
def vllm(forked_python: Run) -> Run:
    """Run code after PRELUDE, on the test platform."""

    def run(code: str, **environment: str) -> str:
        return forked_python(PRELUDE + code, **ENVIRONMENT | environment).splitlines()[-1]

    return run


def test_every_class_with_the_base_mathematics_is_served_and_gives_the_native_result(vllm: Run) -> None:
    """All classes in one process, since each process costs seconds of imports."""
    code = f"""
kinds = {KINDS!r}
for name, arguments in kinds.items():
    embedding = eval(f"rope({{arguments}})")
    assert type(embedding).__name__ == name, (name, type(embedding))
    positions, query, key = inputs()
    want = embedding.forward_native(positions, query.clone(), key.clone())
    ledger.reset()
    got = embedding(positions, query, key)
    assert ledger.calls() == {{"eager": 1}}, (name, ledger.calls(), ledger.fallbacks())
    for a, b in zip(got, want):
        torch.testing.assert_close(a, b, atol=2e-6, rtol=2e-6)
print("all served")
"""
    assert vllm(code) == "all served"


def test_classes_with_their_own_mathematics_are_left_alone(vllm: Run) -> None:
    code = """
class Odd(RotaryEmbedding):
    def forward_native(self, positions, query, key=None):
        return "its own"
class OddStatic(RotaryEmbedding):
    @staticmethod
    def forward_static(*args):
        return "its own"
for cls in Odd, OddStatic:
    assert cls(64, 64, 128, 10000.0, True, torch.float32)(*inputs()) == "its own"
class OtherSignature(RotaryEmbedding):  # as Llama4VisionRotaryEmbedding of vLLM 0.11
    def forward_native(self, query, key):
        return "its own"
class MoreParameters(RotaryEmbedding):  # as MRotaryEmbedding of vLLM 0.11
    def forward_native(self, positions, query, key=None, offsets=None):
        return offsets
assert OtherSignature(64, 64, 128, 10000.0, True, torch.float32)(*inputs()[1:]) == "its own"
assert MoreParameters(64, 64, 128, 10000.0, True, torch.float32)(*inputs(), offsets="its own") == "its own"
from vllm.model_executor.layers import rotary_embedding as package
from vllm.model_executor.layers.rotary_embedding.mrope import MRotaryEmbedding
mrope = MRotaryEmbedding(64, 64, 128, 10000.0, True, torch.float32, mrope_section=[8, 12, 12])
positions, query, key = inputs()
want = mrope.forward_native(positions.expand(3, -1), query.clone(), key.clone())
for a, b in zip(mrope(positions.expand(3, -1), query, key), want):
    torch.testing.assert_close(a, b, atol=2e-6, rtol=2e-6)
from vllm.model_executor.layers.rotary_embedding.ernie45_vl_rope import Ernie4_5_VLRotaryEmbedding
for cls in MRotaryEmbedding, Ernie4_5_VLRotaryEmbedding:
    for style in True, False:  # as native code does, which here rotates in the style of construction
        flipped = cls(64, 64, 128, 10000.0, style, torch.float32, mrope_section=[12, 12, 8])
        flipped.is_neox_style = not style
        for rows in positions, torch.stack([positions, positions.flip(0), positions]):
            want = flipped.forward_native(rows, query.clone(), key.clone())
            served = ledger.calls()["eager"]
            for a, b in zip(flipped(rows, query.clone(), key.clone()), want):
                torch.testing.assert_close(a, b, atol=2e-6, rtol=2e-6)
            assert ledger.calls()["eager"] == served + 1
class OtherOrder(MRotaryEmbedding):
    def forward_native(self, positions, query, key=None, offsets=None):
        return "its own"
assert OtherOrder(64, 64, 128, 10000.0, True, torch.float32, mrope_section=[8, 12, 12])(*inputs()) == "its own"
assert sum(ledger.fallbacks().values()) == 5, ledger.fallbacks()  # each of the five, once
import copy
from types import SimpleNamespace
from vllm.model_executor.layers.rotary_embedding.phi3_long_rope_scaled_rope import Phi3LongRoPEScaledRotaryEmbedding
for length in 32, 128:  # Phi-3's: one cache for contexts of up to 64, and one for longer ones
    config = VllmConfig()
    config.model_config = SimpleNamespace(max_model_len=length)
    with set_current_vllm_config(config):
        phi = Phi3LongRoPEScaledRotaryEmbedding(64, 48, 128, 64, 1e4, True, torch.float32, [1.0] * 24, [3.0] * 24)
    positions, query, key = inputs()
    positions %= 64
    want = type(phi).forward.__wrapped__(phi, positions, query.clone(), key.clone())
    for a, b in zip(phi(positions, query, key), want):
        torch.testing.assert_close(a, b, atol=2e-6, rtol=2e-6)
print(dict(ledger.calls()))
"""
    assert vllm(code) == "{'eager': 11}"


def test_bailings_order_is_served_in_both_styles_and_its_calls_without_a_key_raise_as_before(vllm: Run) -> None:
    code = """
from vllm.model_executor.layers.rotary_embedding.bailing_mrope import BailingMRotaryEmbedding
for is_neox_style in True, False:
    embedding = BailingMRotaryEmbedding(64, 48, 128, 1e4, is_neox_style, torch.float32, mrope_section=[4, 10, 10])
    _, query, key = inputs()
    for positions in torch.randperm(100)[:15].view(3, 5), torch.randperm(100)[:5]:
        want = embedding.forward_native(positions, query.clone(), key.clone())
        ledger.reset()
        for a, b in zip(embedding(positions, query, key), want):
            torch.testing.assert_close(a, b, atol=2e-6, rtol=2e-6)
        assert ledger.calls() == {"eager": 1} and not ledger.fallbacks(), ledger.fallbacks()
    try:
        embedding(positions, query)
    except ValueError as error:
        print(error, sum(ledger.fallbacks().values()))
"""
    assert vllm(code) == "Bailing M-RoPE requires key states 1"


@pytest.mark.parametrize(
    ("section", "key", "served"),
    [
        ("[8, 12, 12]", "key.half()", "natively"),
        ("[16, 24, 24]", "None", "vendor"),
        ("[8, 12, 12]", "None", "natively"),
    ],
)
def test_a_call_that_a_subclass_hands_to_its_parent_and_we_hand_back_is_counted_once(
    vllm: Run, section: str, key: str, served: str
) -> None:
    """As vllm-ascend's class does with all sections but those of the vendor's operator."""
    code = f"""
from types import ModuleType
from rope_patch.patching.targets import ascend_mrope
from rope_patch.settings import parse
from vllm.model_executor.layers.rotary_embedding.mrope import MRotaryEmbedding
rope_patch.disable()
MRotaryEmbedding.forward_native = lambda self, positions, query, key=None, offsets=None: "natively"
rope_patch.enable()
class AscendMRotaryEmbedding(MRotaryEmbedding):
    def forward_oot(self, positions, query, key):
        return "vendor" if self.mrope_section == [16, 24, 24] else super().forward_oot(positions, query, key)
module = ModuleType("vllm_ascend.ops.rotary_embedding")
module.AscendMRotaryEmbedding = AscendMRotaryEmbedding
ascend_mrope.replacement(module, parse({{"VLLM_ASCEND_TRITON_ROPE": "all"}})).install()
embedding = AscendMRotaryEmbedding(64, 64, 128, 1e4, True, torch.float32, mrope_section=[8, 12, 12])
embedding.mrope_section = {section}
positions, query, key = inputs()
result = embedding(positions.expand(3, -1), query, {key})
print(result, dict(ledger.calls()), sum(ledger.fallbacks().values()))
"""
    assert vllm(code) == f"{served} {{}} 1"


def test_attributes_that_models_change_after_construction_are_read_at_every_call(vllm: Run) -> None:
    code = """
embedding, (positions, query, key) = rope(), inputs()
for change in "embedding.is_neox_style = False", "embedding.cos_sin_cache = embedding.cos_sin_cache.flip(0)":
    exec(change)
    want = embedding.forward_native(positions, query.clone(), key.clone())
    for a, b in zip(embedding(positions, query, key), want):
        torch.testing.assert_close(a, b, atol=2e-6, rtol=2e-6)
print(dict(ledger.calls()))
"""
    assert vllm(code) == "{'eager': 2}"


def test_after_sleep_wake_and_reload_the_cache_is_read_anew(vllm: Run) -> None:
    """Does to buffers what vLLM's worker does at sleep level 2, then reloads them, then moves them to other memory."""
    code = """
import time
from rope_patch.serving import first_use
from vllm.model_executor.model_loader import reload
model = torch.nn.ModuleDict({"base": rope(), "llama3": rope("llama3", factor=8.0, low_freq_factor=1.0,
    high_freq_factor=4.0, original_max_position_embeddings=64)})
right = {name: embedding.cos_sin_cache.clone() for name, embedding in model.items()}
def check(seed):
    for name, embedding in model.items():
        torch.manual_seed(seed)
        positions, query, key = inputs()
        want = RotaryEmbedding.forward_static(positions, query.clone(), key.clone(), 64, 64, right[name], True)
        ledger.reset()
        for a, b in zip(embedding(positions, query, key), want):
            torch.testing.assert_close(a, b, atol=2e-6, rtol=2e-6)
        assert ledger.calls() == {"eager": 1}, ledger.fallbacks()
reload.record_metadata_for_reloading(model)
for turn in range(2):
    saved = {name: buffer.cpu().clone() for name, buffer in model.named_buffers()}
    for buffer in model.buffers():
        buffer.fill_(float("nan"))
    for embedding in model.values():
        embedding(*inputs())  # a call meanwhile must not retire the kernel
    for name, buffer in model.named_buffers():
        buffer.data.copy_(saved[name].data)
    first_use.clock = lambda: time.monotonic() + first_use.LONGEST_WAIT  # the next try of the check is due
    check(turn)
    reload.initialize_layerwise_reload(model)
    reload.finalize_layerwise_reload(model, None)
    for name, embedding in model.items():
        if embedding.cos_sin_cache.is_meta:  # upstream's reload leaves a layer without weights on meta
            embedding.register_buffer("cos_sin_cache", right[name].clone(), persistent=False)
    check(10 + turn)
    model.double().float()
    right = {name: embedding.cos_sin_cache.clone() for name, embedding in model.items()}
    check(20 + turn)
print("right")
"""
    assert vllm(code) == "right"


def test_the_original_converts_a_cache_of_another_dtype_and_the_kernel_serves_the_next_call(vllm: Run) -> None:
    code = """
embedding, (positions, query, key) = rope(), inputs()
embedding.cos_sin_cache = embedding.cos_sin_cache.half()
embedding(positions, query, key)
assert sum(ledger.fallbacks().values()) == 1 and not ledger.calls()
embedding(positions, query, key)
print(dict(ledger.calls()))
"""
    assert vllm(code) == "{'eager': 1}"


def test_a_call_without_a_key_as_in_cross_layer_sharing_is_served(vllm: Run) -> None:
    code = """
embedding, (positions, query, _) = rope(), inputs()
want = embedding.forward_native(positions, query.clone())
got = embedding(positions, query)
torch.testing.assert_close(got[0], want[0], atol=2e-6, rtol=2e-6)
print(got[1], dict(ledger.calls()))
"""
    assert vllm(code) == "None {'eager': 1}"


def test_modules_copy_and_pickle(vllm: Run) -> None:
    code = """
import copy, pickle
embedding, (positions, query, key) = rope(), inputs()
for other in copy.deepcopy(embedding), pickle.loads(pickle.dumps(embedding)):
    for a, b in zip(other(positions, query, key), embedding(positions, query, key)):
        assert torch.equal(a, b)
print(dict(ledger.calls()))
"""
    assert vllm(code) == "{'eager': 4}"


def test_a_model_built_before_rope_patch_was_imported_is_re_bound_and_restored(vllm: Run, forked_python: Run) -> None:
    late = PRELUDE.replace("import rope_patch\nfrom rope_patch.reporting import ledger\n", "")
    assert late != PRELUDE
    code = """
embedding, (positions, query, key) = rope(), inputs()
native = embedding._forward_method.__func__
attributes = {c: dict(vars(c)) for c in (RotaryEmbedding, CustomOp)}
import rope_patch
from rope_patch.reporting import ledger
embedding(positions, query.clone(), key.clone())
assert ledger.calls() == {"eager": 1}, rope_patch.status()
rope_patch.disable()
assert embedding._forward_method.__func__ is native
assert attributes == {c: dict(vars(c)) for c in (RotaryEmbedding, CustomOp)}
embedding(positions, query.clone(), key.clone())
assert ledger.calls() == {"eager": 1}
rope_patch.enable()
embedding(positions, query.clone(), key.clone())
print(dict(ledger.calls()))
"""
    assert forked_python(late + code, **ENVIRONMENT).splitlines()[-1] == "{'eager': 2}"


PICTURE = """
import sys, json
{before}
import vllm.envs
from vllm.model_executor.layers import rotary_embedding
from vllm.model_executor.layers.rotary_embedding import base, mrope, deepseek_scaling_rope, llama3_rope
from vllm.model_executor import custom_op
picture = {{}}
for module in (vllm.envs, custom_op, rotary_embedding, base, mrope, deepseek_scaling_rope, llama3_rope):
    for name, value in sorted(vars(module).items()):
        if isinstance(value, type) and value.__module__.startswith("vllm"):
            for attribute, inner in sorted(vars(value).items()):
                code = getattr(inner, "__code__", None)
                where = [code.co_filename, code.co_firstlineno] if code else type(inner).__name__
                picture[f"{{module.__name__}}.{{name}}.{{attribute}}"] = where
picture["known"] = sorted(vllm.envs.environment_variables)
print(json.dumps(picture, sort_keys=True))
"""


def test_switched_off_vllm_knows_our_variables_and_no_attribute_of_any_class_differs(forked_python: Run) -> None:
    def picture(before: str, **environment: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(
            forked_python(PICTURE.format(before=before), **ENVIRONMENT | environment).splitlines()[-1]
        )
        return found

    unpatched = picture("sys.modules['rope_patch'] = None")
    off, on = picture("import rope_patch", VLLM_ASCEND_TRITON_ROPE="0"), picture("import rope_patch")
    known, known_off = set(unpatched.pop("known")), set(off.pop("known"))
    assert off == unpatched
    assert known_off - known == set(NAMES)
    assert {name: value for name, value in on.items() if name != "known"} != unpatched


def test_an_ordinary_cpu_installation_is_never_patched(forked_python: Run) -> None:
    code = PRELUDE + "print('forward_oot' in vars(RotaryEmbedding), rope_patch.status()['reason'])"
    printed = forked_python(code, VLLM_LOGGING_LEVEL="ERROR").splitlines()[-1]
    assert printed == "False platform: vLLM's platform is cpu, not npu"


def test_fullgraph_compilation_of_the_module_has_the_op_in_its_graph(vllm: Run) -> None:
    code = """
from rope_patch.operators import op
graphs = []
def keep(graph, example_inputs):
    graphs.append(graph)
    return graph
embedding, (positions, query, key) = rope(), inputs()
want = embedding.forward_native(positions, query.clone(), key.clone())
got = torch.compile(embedding, fullgraph=True, dynamic=True, backend=keep)(positions, query, key)
for a, b in zip(got, want):
    torch.testing.assert_close(a, b, atol=2e-6, rtol=2e-6)
print(sum(node.target is op.rotary_embedding for graph in graphs for node in graph.graph.nodes), dict(ledger.calls()))
"""
    for ci in (False, True):  # as torch sets it from the variable CI, when it is imported
        config = f"import torch._functorch.config as config\nconfig.error_on_custom_op_aliasing = {ci}\n"
        assert vllm(config + code) == "1 {'traced': 1, 'op': 1}"


def test_the_key_of_vllms_compile_cache_differs_between_on_and_off(forked_python: Run) -> None:
    code = (
        "{}\nimport vllm.envs, json\nimport vllm.model_executor.layers.rotary_embedding.base\nprint(json.dumps("
        "{{n: str(v) for n, v in vllm.envs.compile_factors().items()}}, sort_keys=True))"
    )

    def key(before: str, **environment: str) -> dict[str, str]:
        found: dict[str, str] = json.loads(
            forked_python(code.format(before), **ENVIRONMENT | environment).splitlines()[-1]
        )
        return found

    absent, off = key("import sys; sys.modules['rope_patch'] = None"), key("import rope_patch", **{VARIABLE: "0"})
    on, asked = key("import rope_patch"), key("import rope_patch", **{VARIABLE: "1"})
    assert {name: value for name, value in off.items() if name not in NAMES} == absent
    assert {off[name] for name in NAMES} == {"None"}
    assert on == asked  # an explicit 1 makes the same graphs as unset
    assert on != off
    assert "rope_patch" in on[VARIABLE]


def test_vllm_knows_the_variable_when_it_is_set_and_on(forked_python: Run) -> None:
    code = """
import rope_patch
from vllm.platforms import current_platform
current_platform.validate_environ(hard_fail=True)
print("accepted")
"""
    assert forked_python(code, VLLM_ASCEND_TRITON_ROPE="1", **ENVIRONMENT).splitlines()[-1] == "accepted"


def test_vllm_still_has_what_we_rely_on() -> None:
    """The message of a failure says what has changed in vLLM."""
    import inspect

    from vllm.model_executor import custom_op
    from vllm.model_executor.layers.rotary_embedding import base

    source = inspect.getsource(custom_op.CustomOp)
    assert "self._forward_method = self.dispatch_forward(" in source, "instances no longer keep _forward_method"
    assert "return self.forward_oot" in source, "dispatch_forward no longer knows forward_oot"
    assert "forward_oot" not in vars(base.RotaryEmbeddingBase), "vLLM has a forward_oot of its own now"
    native = inspect.signature(base.RotaryEmbedding.forward_native)
    assert list(native.parameters) == ["self", "positions", "query", "key"], "forward_native's signature moved"
