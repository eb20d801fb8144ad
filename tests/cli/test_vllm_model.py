"""vLLM's own model code says how a model rotates: on the meta device, in a process that a configuration cannot harm."""

import importlib.util
import json
import statistics
from pathlib import Path
from typing import Any

import pytest

from rope_patch.cli import config_json, main, model, vllm_model
from rope_patch.cli.answer import CannotAnswer
from rope_patch.cli.rope_config import Norms
from rope_patch.cli.vllm_model import Described, NotAsked
from tests.conftest import ROOT, clean_environment
from tests.host_cann.forks import Forks

HEADS = {"hidden_size": 256, "num_attention_heads": 4, "num_key_value_heads": 2, "num_hidden_layers": 2}
LLAMA = {
    **HEADS, "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 64, "intermediate_size": 64,
    "max_position_embeddings": 128, "torch_dtype": "bfloat16",
}  # fmt: skip
GLM = {
    "architectures": ["Glm4MoeForCausalLM"], "model_type": "glm4_moe", "hidden_size": 5120, "num_attention_heads": 96,
    "num_key_value_heads": 8, "head_dim": 128, "partial_rotary_factor": 0.5, "num_hidden_layers": 92,
    "n_routed_experts": 160, "num_experts_per_tok": 8, "first_k_dense_replace": 3, "rope_theta": 1000000,
    "max_position_embeddings": 131072, "intermediate_size": 12288, "moe_intermediate_size": 1536, "vocab_size": 151552,
    "use_qk_norm": True, "n_shared_experts": 1, "n_group": 1, "topk_group": 1, "attention_bias": True,
    "torch_dtype": "bfloat16", "rms_norm_eps": 1e-5, "hidden_act": "silu", "norm_topk_prob": True,
    "routed_scaling_factor": 2.5, "num_nextn_predict_layers": 1,
    "quantization_config": {"quant_method": "no such one"},
}  # fmt: skip
# Of every so many architectures both ways are asked here, for 9 seconds of a processor beside the import;
# ``python -m tests.cli.models`` asks all 150.
EVERY = 5
# What the second way cannot know, with the reason.
DIFFERENT: dict[str, str] = {}
FIELDS = ("hidden_size", "num_attention_heads", "num_key_value_heads", "num_hidden_layers", "head_dim", "vocab_size")
FIELDS += (
    "intermediate_size",
    "max_position_embeddings",
    "rope_theta",
    "rope_scaling",
    "rope_parameters",
    "partial_rotary_factor",
)
VALUES = (-1, 0, 2**62, 1e300, "x", [], {"a": {"b": []}}, True)
DEEP: Any = json.loads("[" * 500 + "]" * 500)
STRANGE = [
    # Layers without number are refused before the process starts, which would use up its time and memory.
    *(
        {**LLAMA, field: x}
        for field in FIELDS
        for x in VALUES
        if field not in config_json.REPEATED or x not in VALUES[2:4]
    ),
    {**LLAMA, "architectures": ["EvilForCausalLM"], "auto_map": {"AutoConfig": "evil.Evil", "AutoModel": "evil.Evil"}},
    {**LLAMA, "model_type": "evil", "auto_map": {"AutoConfig": "someone/evil--evil.Evil"}},
    {**LLAMA, "trust_remote_code": True, "custom_generate": "evil", "_name_or_path": "someone/evil"},
    {**LLAMA, "architectures": ["../evil", "os.system"]},
    {**LLAMA, "architectures": [{}]},
    {**LLAMA, "architectures": ["LlamaForCausalLM"] * 1000},
    {**LLAMA, "text_config": {"text_config": {"text_config": {}}}},
    {**LLAMA, "torch_dtype": "__import__('os').system('touch ran')"},
    {**LLAMA, "hidden_act": "evil"},
    {**LLAMA, "num_hidden_layers": 1000, "hidden_size": 65536, "intermediate_size": 2**40},
    {**LLAMA, "rope_scaling": {"rope_type": "yarn", "factor": 1e9, "original_max_position_embeddings": 2**40}},
    {**LLAMA, "layer_types": DEEP},
]
CODE = """
import json, tempfile
from tests.cli import models
every, strange = json.load(open("asked.json"))
with tempfile.TemporaryDirectory() as folder:
    models.prepared(folder)
    print(json.dumps([list(models.compared(every, folder)), [models.asked(one, folder) for one in strange]]))
"""


@pytest.fixture(scope="module")
def said(forks: Forks, tmp_path_factory: pytest.TempPathFactory) -> Any:
    if importlib.util.find_spec("vllm") is None:
        pytest.skip("asks the real vLLM")
    folder = tmp_path_factory.mktemp("models")
    (folder / "evil.py").write_text("open('ran', 'w')")
    (folder / "asked.json").write_text(json.dumps([EVERY, STRANGE]))
    done = forks.run(CODE, clean_environment() | {"PYTHONPATH": str(ROOT)}, folder)
    assert done.returncode == 0, done.stderr[-2000:]
    compared, strange = json.loads(done.stdout.splitlines()[-1])
    return {"compared": compared, "strange": strange, "folder": folder}


def test_both_ways_say_the_same_of_every_architecture_that_both_know(said: Any) -> None:
    both = [one for one in said["compared"] if isinstance(one["own"], list) and isinstance(one["second"], list)]
    assert {one["kind"]: (one["own"], one["second"]) for one in both if one["own"] != one["second"]} == DIFFERENT
    assert len([one for one in both if one["own"]]) >= 16


def test_strange_configurations_harm_nothing(said: Any) -> None:
    """Each ends within its time and memory; what vLLM refuses has a reason of one line."""
    assert len(said["strange"]) >= 100
    assert not (said["folder"] / "ran").exists()
    for config, one in zip(STRANGE, said["strange"], strict=True):
        assert ("error" in one) != ("rows" in one), config
        assert "\n" not in one.get("error", "")
        assert one.get("grown_mib", 0) < 1200, config
        assert one["seconds"] < 45, config
    # vLLM itself would wait two seconds before it reads a configuration once more.
    assert statistics.median(one["seconds"] for one in said["strange"]) < 1.8


def test_a_model_of_355_billion_parameters_is_asked_on_one_of_eight_ranks(tmp_path: Path, monkeypatch: Any) -> None:
    """In the process that the command starts. It leaves no report, and its own error is in the answer."""
    if importlib.util.find_spec("vllm") is None:
        pytest.skip("asks the real vLLM")
    monkeypatch.setenv("VLLM_ASCEND_TRITON_ROPE_REPORT", str(tmp_path / "reports"))
    (tmp_path / "config.json").write_text(json.dumps(GLM))
    found = model.of_model(str(tmp_path), 8)
    assert (found.way, found.notes) == ("vLLM's own model code", [])
    (rope,) = found.ropes
    assert (rope.embedding, rope.head_size, rope.rotary_dim, rope.is_neox_style) == ("RotaryEmbedding", 128, 64, True)
    assert (rope.num_heads, rope.num_kv_heads, rope.layers, rope.theta) == (12, 1, 92, 1e6)
    assert rope.made is not None
    assert rope.made.table == (131072, 64)
    assert rope.norms == Norms("RMSNorm", 1e-5, False, "Glm4MoeAttention")
    assert not (tmp_path / "reports").exists()


ROW = {
    "embedding": "RotaryEmbedding", "class": "vllm.rotary:RotaryEmbedding", "head_size": 64, "rotary_dim": 32,
    "num_heads": 4, "num_kv_heads": 1, "is_neox_style": False, "sections": None, "interleaved": False,
    "table": [128, 32], "layers": 3, "first": 0, "model_length": 128, "arguments": {"base": 500.0, "dtype": None},
}  # fmt: skip


def described(monkeypatch: pytest.MonkeyPatch, *rows: Any, bare: int = 0, others: tuple[str, ...] = ()) -> None:
    monkeypatch.setattr(vllm_model, "ask", lambda config, ranks: Described(list(rows), bare, list(others)))


@pytest.mark.parametrize(
    ("change", "sections"),
    [
        ({"embedding": "MRotaryEmbedding", "sections": [4, 6, 6]}, "chunked 4 6 6"),
        ({"embedding": "MRotaryEmbedding", "sections": [6, 5, 5], "interleaved": True}, "interleaved 6 5 5"),
        ({"embedding": "Ernie4_5_VLRotaryEmbedding", "sections": [6, 6, 4]}, "alternating 4 6 6"),
        ({"embedding": "XDRotaryEmbedding", "sections": [4, 4, 4, 4]}, "None"),
        ({"embedding": "MRotaryEmbeddingInterleaved", "sections": [4, 6, 6]}, "None"),
    ],
)
def test_sections_are_in_the_order_of_vllms_class(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, change: Any, sections: str
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(LLAMA))
    described(monkeypatch, {**ROW, **change, "class": f"vllm.rotary:{change['embedding']}"})
    (rope,) = model.of_model(str(tmp_path)).ropes
    assert str(rope.sections) == sections
    assert rope.positions == len(change["sections"])


def test_layers_of_different_kinds_are_rows_and_those_without_a_rotary_embedding_are_said(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(LLAMA))
    described(monkeypatch, ROW, {**ROW, "head_size": 128, "first": 5, "layers": 1}, bare=2, others=("Odd",))
    found = model.of_model(str(tmp_path))
    assert [(rope.name, rope.layers) for rope in found.ropes] == [("llama layer 0", 3), ("llama layer 5", 1)]
    assert "2 attention layers without a rotary embedding" in found.notes
    assert found.notes[1].startswith("Odd: ")


@pytest.mark.parametrize("verb", ["verify", "bench"])
def test_a_model_without_a_rotary_embedding_is_exit_status_2(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: Any, verb: str
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(LLAMA))
    described(monkeypatch, bare=12)
    assert main([verb, str(tmp_path)]) == 2
    assert "no rotary embedding of vLLM's in llama: 12 attention layers without" in capsys.readouterr().err


def test_where_vllm_gives_no_answer_the_fields_are_read_and_the_answer_says_why(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(LLAMA))

    def fails(config: Any, ranks: int) -> Any:
        raise NotAsked("ImportError: no vllm")

    monkeypatch.setattr(vllm_model, "ask", fails)
    found = model.of_model(str(tmp_path))
    assert "the fields of config.json" in found.way
    assert "ImportError: no vllm" in found.way
    assert [rope.made for rope in found.ropes] == [None]


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("import time; time.sleep(60)", "not done after 1 seconds"),
        ("print('ready', flush=True); import time; time.sleep(60)", "without weights: not done after 1 seconds"),
        ("import os; os._exit(9)", "the process ended by itself (9)"),
        ('print(\'{"error": "no such model"}\')', "no such model"),
    ],
    ids=["while it imports", "while it builds", "it dies", "it says why"],
)
def test_a_process_that_does_not_answer_is_ended(monkeypatch: pytest.MonkeyPatch, code: str, said: str) -> None:
    monkeypatch.setattr(vllm_model, "CODE", code)
    monkeypatch.setattr(vllm_model, "IMPORT_SECONDS", 1)
    monkeypatch.setattr(vllm_model, "BUILD_SECONDS", 1)
    with pytest.raises(NotAsked) as refused:
        vllm_model.ask(LLAMA, 1)
    assert str(refused.value).endswith(said)


@pytest.mark.parametrize(
    ("config", "named"),
    [
        ({**LLAMA, "num_hidden_layers": 10**9}, "num_hidden_layers is 1000000000"),
        ({**LLAMA, "text_config": {"num_experts": 10**9}}, "num_experts is 1000000000"),
        ({**LLAMA, "n_layer": -1}, "n_layer is -1"),
        ({**LLAMA, "layer_types": DEEP}, "more than 32 objects and lists within each other"),
    ],
)
def test_what_no_model_has_is_refused_before_any_code_sees_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, config: Any, named: str
) -> None:
    monkeypatch.setattr(vllm_model, "ask", lambda *asked: pytest.fail("it was asked"))
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(CannotAnswer, match=named):
        model.of_model(str(tmp_path))


def test_a_mebibyte_of_nesting_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"a": ' + "[" * (config_json.LARGEST - 100))
    with pytest.raises(CannotAnswer, match="is not JSON"):
        model.of_model(str(tmp_path))
