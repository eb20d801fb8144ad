"""``rope-patch bench`` on the real vLLM, interpreted: it times and compares native and patched, and says who serves."""

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from rope_patch.cli import bench, main, report_machine, report_page, report_rows, verify
from rope_patch.cli.rope_config import RopeConfig
from rope_patch.cli.worker import Worker
from tests.conftest import ROOT, clean_environment
from tests.host_cann.forks import Forks

LLAMA3 = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 64}
FOPE = {"num_key_value_heads": 1, "num_inv_freq": 40, "fope_sep_head": True, "fope_init_factor": 0.1}
SECTIONS = {"mrope_section": [10, 15, 15]}
CONFIG = {
    "model_type": "stablelm",
    "hidden_size": 160,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "partial_rotary_factor": 0.25,
    "max_position_embeddings": 128,
}
# Runs some code and then the verb, for each step; prints each step's exit status and output. rope_patch finds vLLM's
# live instances among those that were made here: the search among all objects, which takes half a second each time, is
# tested in tests/patching.
SCRIPT = """
import contextlib, io, json
from rope_patch.cli import main
from rope_patch.patching import live
from vllm.model_executor.custom_op import CustomOp
made, init = [], CustomOp.__init__
def noted(self, *arguments, **keywords):
    init(self, *arguments, **keywords)
    made.append(self)
CustomOp.__init__ = noted
live._live_objects_if_bound = lambda function: made
for name, before, arguments in json.loads(STEPS):
    exec(before)
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = main(arguments if arguments[0] in ("verify", "doctor") else ["bench", *arguments])
    print(json.dumps([name, status, out.getvalue() or err.getvalue()]))
"""
# A mistake in the kernel that its first-use check does not see.
WRONG = """
from rope_patch.operators import contract, dispatch
right = dispatch.dispatch
def wrong(*arguments):
    rotated = right(*arguments)
    rotated[0].flatten()[3].mul_(1.01)
    return rotated
dispatch.dispatch = wrong
"""
# As vLLM's own model code would answer for a model with layers of two kinds, one of them in an order of its own.
MADE = """
from rope_patch.cli import vllm_model
PACKAGE = "vllm.model_executor.layers.rotary_embedding"
LENGTHS = {"max_position_embeddings": 128, "base": 1e4, "is_neox_style": True, "dtype": None}
def row(embedding, module, heads, layers, **more):
    arguments = {"head_size": 64, "rotary_dim": 64, **LENGTHS, **more}
    return {"embedding": embedding, "class": f"{PACKAGE}.{module}:{embedding}", "arguments": arguments,
        "head_size": 64, "rotary_dim": 64, "num_heads": heads, "num_kv_heads": 1, "is_neox_style": False,
        "sections": None, "interleaved": False, "table": [128, 64], "layers": layers, "first": 6 - layers,
        "model_length": 128}
llama3 = dict(scaling_factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, orig_max_position=64)
long = dict(original_max_position_embeddings=64, short_factor=[1.0] * 32, long_factor=[2.0] * 32)
rows = [row("Llama3RotaryEmbedding", "llama3_rope", 4, 5, **llama3),
    row("Phi3LongRoPEScaledRotaryEmbedding", "phi3_long_rope_scaled_rope", 2, 1, **long)]
rows[1]["is_neox_style"] = True
ask = vllm_model.ask
def once(config, ranks):
    vllm_model.ask = ask
    return vllm_model.Described(rows, 2, [])
vllm_model.ask = once
"""
FAILING = """
from rope_patch.reporting import ledger
def fails(*arguments):
    ledger.page().fallbacks["ub overflow"] += 1
dispatch.dispatch = fails
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bench")
    for name, more in {
        "partial": {},
        "llama3": {"partial_rotary_factor": 1.0, "rope_scaling": {"rope_type": "llama3", **LLAMA3}},
        "lacking": {"rope_scaling": {"rope_type": "llama3"}},
        "fourier": {"partial_rotary_factor": 1.0, "rope_scaling": {"use_fope": True, **FOPE}},
        "sections": {"partial_rotary_factor": 1.0, "rope_scaling": {"type": "mrope", **SECTIONS}},
        "interleaved": {"partial_rotary_factor": 1.0, "rope_parameters": {**SECTIONS, "mrope_interleaved": True}},
        "lacking sections": {"partial_rotary_factor": 1.0, "rope_scaling": {"rope_type": "yarn", **SECTIONS}},
        "ernie": {"partial_rotary_factor": 1.0, "model_type": "ernie4_5_moe_vl", "freq_allocation": 10},
    }.items():
        (folder / name).mkdir()
        (folder / name / "config.json").write_text(json.dumps({**CONFIG, **more}))
    return folder


def run(forks: Forks, folder: Path, *steps: tuple[str, str, list[str]], **variables: str) -> dict[str, tuple[int, str]]:
    for package in "vllm", "rope_patch_test_platform":  # looked for, since an import here would take seconds
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"times the real vLLM, on the test platform: there is no {package}")
    platform = {"ROPE_PATCH_TEST_PLATFORM": "1", "TRITON_INTERPRET": "1", "PYTHONPATH": str(ROOT)}
    code = f"STEPS = {json.dumps(steps)!r}\n{SCRIPT}"
    done = forks.run(code, clean_environment() | platform | variables, folder)
    assert done.returncode == 0, done.stderr
    return {name: (status, said) for name, status, said in map(json.loads, done.stdout.splitlines())}


@pytest.fixture(scope="module")
def said(forks: Forks, folder: Path) -> dict[str, tuple[int, str]]:
    """All steps in one process, since each process costs seconds of imports."""
    few = ["--json", "--tokens", "2"]
    return run(
        forks,
        folder,
        ("json", "", ["partial", "--json"]),
        ("text", "", ["partial", "--plot", "out.png"]),
        ("llama3", "", ["llama3", *few, "-tp", "2"]),
        ("lacking", "", ["lacking", *few]),
        *((name, "", [name, *few]) for name in ("fourier", "sections", "interleaved", "lacking sections", "ernie")),
        ("verify", "", ["verify", "sections", "--json", "--dtype", "bfloat16"]),
        ("doctor", "", ["doctor", "--json"]),
        ("made", MADE, ["verify", "partial", "--dtype", "bfloat16"]),
        ("wrong", WRONG, ["partial", "--tokens", "2"]),
        ("failing", FAILING, ["partial", *few]),
        ("no step", "from rope_patch.cli.worker import Worker\nWorker.step = None", ["partial", *few]),
    )


def test_a_row_has_host_times_of_native_and_patched_and_no_device_time_when_interpreted(said: Any) -> None:
    status, printed = said["json"]
    assert status == 0
    answer = json.loads(printed)
    assert (answer["ok"], answer["dtype"]) == (True, "bfloat16")
    assert [row["tokens"] for row in answer["results"]] == list(bench.TOKENS_INTERPRETED)
    for row in answer["results"]:
        assert (row["shape"]["head_size"], row["shape"]["rotary_dim"]) == (80, 20)
        for times in row["native"], row["patched"]:
            assert times["host"]["median_us"] > 0
            assert times["host"]["spread_us"] >= 0
            assert times["device"] is None
        assert row["ratio_host"] == row["native"]["host"]["median_us"] / row["patched"]["host"]["median_us"]
        assert row["ratio_device"] is None
        assert (row["serves"], row["reason"], row["remarks"], row["fault"]) == ("kernel", None, [], None)


def test_the_text_says_who_serves_and_that_an_interpreters_times_mean_nothing(said: Any) -> None:
    status, printed = said["text"]
    assert status == 0
    way, _, header, first, *_ = printed.splitlines()
    assert way.startswith("From the fields of config.json, since vLLM's own model code gave no answer")
    assert header.split("  ")[0] == "shape"
    assert "host: native" in header
    assert "device" not in header
    assert first.split()[-1] == "kernel"
    assert "TRITON'S INTERPRETER ran the kernel: these times say nothing of a device." in printed


def test_a_picture_is_drawn(said: Any, folder: Path) -> None:
    pytest.importorskip("matplotlib")
    assert (folder / "out.png").read_bytes().startswith(b"\x89PNG")


def test_the_class_is_that_of_the_models_scaling(said: Any) -> None:
    (row,) = json.loads(said["llama3"][1])["results"]
    assert (row["embedding"], row["serves"], row["remarks"]) == ("Llama3RotaryEmbedding", "kernel", [])
    assert (row["shape"]["num_heads"], row["shape"]["num_kv_heads"]) == (1, 1)


def test_a_scaling_without_its_parameters_is_timed_as_the_plain_class_with_a_remark(said: Any) -> None:
    status, printed = said["lacking"]
    (row,) = json.loads(printed)["results"]
    assert (status, row["embedding"], row["serves"]) == (0, "RotaryEmbedding", "kernel")
    assert "scaling llama3 cannot be built (KeyError('factor'))" in row["remarks"][0]


def test_a_class_that_is_not_covered_is_reported_as_native(said: Any) -> None:
    status, printed = said["fourier"]
    (row,) = json.loads(printed)["results"]
    assert (status, row["serves"]) == (0, "native")
    assert "not covered" in row["reason"]
    assert row["patched"]["host"]["median_us"] > 0


@pytest.mark.parametrize(
    ("name", "kind", "order"),
    [
        ("sections", "MRotaryEmbedding", "chunked"),
        ("interleaved", "MRotaryEmbedding", "interleaved"),
        ("ernie", "Ernie4_5_VLRotaryEmbedding", "alternating"),
    ],
)
def test_a_multimodal_model_is_timed_with_three_positions_a_token(said: Any, name: str, kind: str, order: str) -> None:
    status, printed = said[name]
    (row,) = json.loads(printed)["results"]
    assert (status, row["embedding"], row["serves"], row["remarks"], row["fault"]) == (0, kind, "kernel", [], None)
    assert (row["shape"]["sections"], row["tokens"]) == ({"order": order, "pairs": [10, 15, 15]}, 2)


def test_verify_judges_both_sides_of_vllms_module(said: Any) -> None:
    status, printed = said["verify"]
    assert status == 0, printed
    (result,) = json.loads(printed)["results"]
    assert (result["with"]["serves"], result["with"]["outcome"]) == ("kernel", "right")
    assert (result["without"]["serves"], result["without"]["outcome"]) == (
        "MRotaryEmbedding.forward_oot: PyTorch",
        "right",
    )
    assert (result["serves_now"], result["shape"]["positions"]) == ("kernel", 3)


def test_verify_makes_the_modules_that_the_model_makes(said: Any) -> None:
    """One row for each kind of layer, with its own heads, scaling and style, which is changed after it was made."""
    status, printed = said["made"]
    assert status == 0, printed
    lines = printed.splitlines()
    assert lines[:2] == ["From vLLM's own model code.", "2 attention layers without a rotary embedding"]
    first, second = lines[4:6]
    assert first.split()[:9] == ["stablelm", "layer", "1", "5", "64", "64", "4/1", "gpt-j", "-"]
    assert second.split()[:10] == ["stablelm", "layer", "5", "1", "64", "64", "2/1", "neox", "-", "longrope"]
    for line in (first, second):
        assert "kernel: right" in line
        assert ": PyTorch: right" in line


def test_a_report_shows_what_the_verbs_answer(said: Any) -> None:
    """The verbs' own answers, in the page and in the rows; ``test_report.py`` has the rest."""
    for measured in "json", "failing", "fourier":
        steps = {"doctor": "doctor", "verify": "verify", "bench": measured}
        parts = {verb: {"status": 0, "seconds": 1.0, "answer": json.loads(said[step][1])} for verb, step in
                 steps.items()}  # fmt: skip
        data = {"written": "2026-11-30", "machine": report_machine.described(), "parts": parts}
        page, rows = report_page.text(data), report_rows.table_of(data)
        for shown in ("the CPU, under Triton's interpreter", "stablelm"):
            assert shown in page
            assert shown in rows
        assert "kernel: right" in page
        assert "would be patched: rotary_embedding" in page
        assert ("FAULT, " in rows) == (measured == "failing")
        assert "*measured*" not in rows or report_machine.described()["device_files"]


def test_sections_that_vllm_cannot_build_are_exit_status_2(said: Any) -> None:
    """The plain class would not do: it takes one position a token."""
    status, printed = said["lacking sections"]
    assert status == 2
    assert "vLLM builds no rotary embedding for stablelm: KeyError: 'factor'" in printed


@pytest.mark.parametrize("scaling", ["longrope", "su"])
def test_a_remark_says_that_longropes_class_is_timed_as_the_plain_one(scaling: str) -> None:
    built = mock.Mock(spec=Worker)
    embedding = Worker.build(built, RopeConfig("Phi-3", 96, 96, 2, 1, scaling=scaling), "dtype")
    assert embedding.remark == "LongRoPE's class, which the kernel serves, is not built here: timed as the plain class"
    assert built._rope.call_args.args[2:] == ("default", {})


def test_a_wrong_kernel_is_exit_status_1(said: Any) -> None:
    status, printed = said["wrong"]
    assert status == 1
    assert "FAULT, kernel [1]\n[1] WRONG: 1 of 480 lanes\n" in printed
    assert "FAULT: the kernel is wrong or could not be run in 1 lines." in printed


def test_a_kernel_that_could_not_be_run_is_exit_status_1(said: Any) -> None:
    status, printed = said["failing"]
    (row,) = json.loads(printed)["results"]
    assert (status, row["fault"], row["serves"], row["reason"]) == (1, "ub overflow", "native", "ub overflow")
    assert row["native"]["host"]["median_us"] > 0
    assert row["patched"] is None


def test_a_worker_whose_forward_context_fails_is_exit_status_2(said: Any) -> None:
    status, printed = said["no step"]
    assert status == 2
    assert "stablelm cannot be measured here: TypeError" in printed


def test_under_the_kill_switch_native_serves_and_the_kernel_is_still_timed(forks: Forks, folder: Path) -> None:
    """If native is wrong, a remark says so, and it does not count as the kernel's fault."""
    wrong = "import torch\nfrom vllm.model_executor.layers.rotary_embedding.base import RotaryEmbedding\n"
    wrong += "from vllm.model_executor.layers import rotary_embedding\nrotary_embedding._ROPE_DICT.clear()\n"
    wrong += "RotaryEmbedding.forward_oot = lambda self, positions, query, key: (query + 1, key + 0)"
    off = {"VLLM_ASCEND_TRITON_ROPE": "0"}
    few = ["partial", "--json", "--tokens", "2"]
    answers = run(forks, folder, ("off", "", few), ("native wrong", wrong, few), **off)
    status, printed = answers["off"]
    (row,) = json.loads(printed)["results"]
    assert (status, row["serves"], row["reason"]) == (0, "native", "switched off by VLLM_ASCEND_TRITON_ROPE=0")
    assert row["patched"]["host"]["median_us"] > 0
    status, printed = answers["native wrong"]
    (row,) = json.loads(printed)["results"]
    assert (status, row["fault"]) == (0, None)
    assert row["remarks"][0].startswith("native differs in ")


@pytest.fixture
def nothing_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verify, "choose_device", lambda: pytest.fail("it went on"))


def test_a_missing_matplotlib_is_reported_before_anything_is_measured(
    nothing_measured: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert main(["bench", "--plot", "out.png"]) == 2
    assert "pip install 'rope-patch[plot]'" in capsys.readouterr().err


def test_an_unknown_folder_is_exit_status_2(
    nothing_measured: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("matplotlib")
    assert main(["bench", "--plot", str(tmp_path / "nowhere" / "out.png")]) == 2
    assert "there is no folder for" in capsys.readouterr().err
    for place in "", "out.nonsense", str(tmp_path):
        assert main(["bench", "--plot", place]) == 2
        assert "--plot is '" in capsys.readouterr().err
    assert main(["bench", str(tmp_path)]) == 2
    assert "neither a model folder" in capsys.readouterr().err


def test_without_vllm_there_is_nothing_to_time(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    torch = pytest.importorskip("torch")
    pytest.importorskip("triton")
    monkeypatch.setattr(verify, "choose_device", lambda: torch.device("cpu"))
    for name in [name for name in sys.modules if name.partition(".")[0] == "vllm"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "vllm", None)
    assert main(["bench"]) == 2
    assert "bench needs vLLM" in capsys.readouterr().err


@pytest.mark.parametrize("tokens", ["0", "", "1,x", "-1", "1" * 5000, "1048577"])
def test_impossible_numbers_of_tokens_are_exit_status_2(tokens: str) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["bench", f"--tokens={tokens}"])
    assert ended.value.code == 2
