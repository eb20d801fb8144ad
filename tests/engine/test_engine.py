"""The real vLLM engine, generating: the same text with our kernel as natively, and other text with a wrong rotation.

Each fixture runs ``generate.py`` once and is shared: an engine start costs ten seconds to a minute. Where the engine
core and the worker are processes of their own is the last part, ``test_every_way_in_...``; the comparisons before it
run them in one process, which is the same code and starts faster.
"""

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT, clean_environment
from tests.host_cann.forks import Forks

pytest.importorskip("vllm", reason="needs the real vLLM")
import rope_patch_test_platform  # noqa: F401  (where vLLM is installed, its absence is an error)

pytestmark = [pytest.mark.engine, pytest.mark.timeout(3600)]

MODELS = ("llama3", "glm4")
# Each mode's models and dtypes; more models generate in vllm-ascend's engine (tests/ascend_stack). For every model a
# graph holds one op for a rotation, so one is compiled.
CASES = {
    "eager": [*((model, "float32") for model in MODELS), ("glm4", "bfloat16")],
    "compiled": [("llama3", "float32"), ("llama3", "bfloat16")],
}
ALL = [(mode, *case) for mode, cases in CASES.items() for case in cases]


def with_dtype(dtype: str) -> list[tuple[str, str]]:
    return [(mode, model) for mode, model, of_case in ALL if of_case == dtype]


# bfloat16 has 8 bits, and our rotation rounds once where the native one rounds every product. As measured here, that
# changes log-probabilities of these prompts by at most 0.12; a wrong rotation changes some by 2.3 or more.
BFLOAT16_TOLERANCE = 0.25
ENOUGH = 2 * 6  # calls: two layers, six new tokens, of which the first comes with the prompts

Results = dict[tuple[str, str], dict[str, Any]]
OneProcess = Callable[..., Results]


def run(folder: Path, name: str, *arguments: str, forks: Forks | None = None, **environment: str) -> Results:
    """Run ``generate.py`` and return its results by model and dtype; its log is kept in the same folder."""
    out, script = folder / f"{name}.json", ROOT / "tests" / "engine" / "generate.py"
    arguments = (*arguments, "--folder", str(folder / "models"), "--out", str(out))
    settings = {
        "ROPE_PATCH_TEST_PLATFORM": "1",
        "TRITON_INTERPRET": "1",
        "VLLM_CACHE_ROOT": str(folder / "vllm-cache"),
        "TORCHINDUCTOR_CACHE_DIR": str(folder / "inductor-cache"),
    }
    variables = clean_environment() | settings | environment
    if forks:
        code = f"import runpy, sys\nsys.argv[1:] = {arguments!r}\nsys.path.insert(0, {str(script.parent)!r})\n"
        done = forks.run(f"{code}runpy.run_path({str(script)!r}, run_name='__main__')", variables, ROOT)
    else:
        done = subprocess.run([sys.executable, script, *arguments], env=variables, capture_output=True, text=True)
    log = done.stdout + done.stderr
    (folder / f"{name}.log").write_text(log)
    assert done.returncode == 0, log[-6000:]
    return {(result["model"], result["dtype"]): result for result in json.loads(out.read_text())}


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("engine")


@pytest.fixture(scope="session")
def one_process(folder: Path, forks: Forks) -> OneProcess:
    """Runs an engine all in one process: a fork of one in which what vLLM imports is imported already."""

    def run_all(name: str, mode: str, steps: str, **environment: str) -> Results:
        arguments = ["--cases", *map(":".join, CASES[mode]), "--mode", mode, "--steps", *steps.split()]
        return run(folder, name, *arguments, forks=forks, VLLM_ENABLE_V1_MULTIPROCESSING="0", **environment)

    return run_all


@pytest.fixture(scope="session")
def eager(one_process: OneProcess) -> Results:
    return one_process("eager", "eager", "plain off wrong")


@pytest.fixture(scope="session")
def eager_killed(one_process: OneProcess) -> Results:
    return one_process("eager-killed", "eager", "plain", VLLM_ASCEND_TRITON_ROPE="0")


@pytest.fixture(scope="session")
def compiled(one_process: OneProcess) -> Results:
    return one_process("compiled", "compiled", "plain wrong")


@pytest.fixture(scope="session")
def compiled_killed(one_process: OneProcess, compiled: Results) -> Results:
    """Runs after ``compiled``, with the compile cache that it left."""
    return one_process("compiled-killed", "compiled", "plain", VLLM_ASCEND_TRITON_ROPE="0")


@pytest.fixture
def pair(request: pytest.FixtureRequest, mode: str) -> tuple[Results, Results]:
    """The results with the patch, and with the kill switch, in one mode."""
    return request.getfixturevalue(mode), request.getfixturevalue(f"{mode}_killed")


def apart(one: dict[str, Any], other: dict[str, Any]) -> float:
    """The largest difference of a log-probability of the prompts' tokens, which are the same in every run."""
    prompts = (12, 7, 1)
    return max(
        abs(a - b)
        for length, mine, theirs in zip(prompts, one["logprobs"], other["logprobs"], strict=True)
        for a, b in zip(mine[: length - 1], theirs[: length - 1], strict=True)
    )


@pytest.mark.parametrize(("mode", "model"), with_dtype("float32"))
def test_in_float32_the_tokens_are_the_same_as_with_the_kill_switch(pair: tuple[Results, Results], model: str) -> None:
    on, killed = (results[model, "float32"]["plain"] for results in pair)
    assert on["tokens"] == killed["tokens"]
    assert apart(on, killed) < 1e-3


@pytest.mark.parametrize(("mode", "model", "dtype"), ALL)
def test_a_wrong_rotation_changes_the_output(pair: tuple[Results, Results], model: str, dtype: str) -> None:
    result = pair[0][model, dtype]
    assert result["wrong"]["tokens"] != result["plain"]["tokens"]
    assert apart(result["wrong"], result["plain"]) > 4 * BFLOAT16_TOLERANCE


@pytest.mark.parametrize(("mode", "model"), with_dtype("bfloat16"))
def test_in_bfloat16_the_log_probabilities_are_close_to_those_with_the_kill_switch(
    pair: tuple[Results, Results], model: str
) -> None:
    on, killed = (results[model, "bfloat16"]["plain"] for results in pair)
    assert apart(on, killed) <= BFLOAT16_TOLERANCE


@pytest.mark.parametrize(("mode", "model", "dtype"), ALL)
def test_the_worker_reports_that_the_kernel_served_every_call(
    pair: tuple[Results, Results], model: str, dtype: str
) -> None:
    result = pair[0][model, dtype]
    worker = result["plain"]["worker"]
    path = {"eager": "eager", "compiled": "op"}[result["mode"]]
    assert worker["status"]["targets"]["rotary_embedding"] == "applied"
    assert worker["status"]["calls"][path] >= ENOUGH
    assert worker["status"]["fallbacks"] == {}
    for signature in worker["status"]["signatures"].values():
        assert (signature["check"], signature["path"], signature["fallbacks"]) == ("passed", "kernel", {})
        assert signature["plans"][-1]["block_tokens"] >= 1
    assert sum(s["calls"] for s in worker["status"]["signatures"].values()) >= worker["status"]["calls"][path]
    assert worker["bound_to_us"] == [True]


@pytest.mark.parametrize(("mode", "model", "dtype"), ALL)
def test_with_the_kill_switch_the_worker_reports_that_nothing_is_patched(
    pair: tuple[Results, Results], model: str, dtype: str
) -> None:
    worker = pair[1][model, dtype]["plain"]["worker"]
    assert worker["bound_to_us"] == [False]
    assert not worker["own_forward_oot"]
    assert worker["status"]["mode"] == "off"
    assert worker["status"]["calls"] == worker["status"]["fallbacks"] == {}


@pytest.mark.parametrize(("mode", "model", "dtype"), ALL)
def test_as_many_kv_blocks_as_without_us(pair: tuple[Results, Results], model: str, dtype: str) -> None:
    """With a given cache size, since the CPU engine otherwise sizes it by the process's memory, of which Triton takes
    more than a first-use check, which takes at most 1 MiB of the device (``serving/test_first_use.py``)."""
    on, killed = (results[model, dtype]["kv_blocks"] for results in pair)
    assert on == killed > 0


@pytest.mark.parametrize(("model", "dtype"), CASES["eager"])
def test_disable_takes_a_running_model_back_to_native(
    eager: Results, eager_killed: Results, model: str, dtype: str
) -> None:
    off, killed = eager[model, dtype]["off"], eager_killed[model, dtype]["plain"]
    assert off["tokens"] == killed["tokens"]
    assert off["worker"]["bound_to_us"] == [False]
    assert off["worker"]["status"]["calls"] == {}


def test_the_models_have_the_rotary_classes_that_they_stand_for(eager: Results) -> None:
    classes = {model: eager[model, "float32"]["plain"]["worker"]["classes"] for model in MODELS}
    assert classes["llama3"] == ["Llama3RotaryEmbedding"]
    signatures = {
        model: " ".join(eager[model, "float32"]["plain"]["worker"]["status"]["signatures"]) for model in MODELS
    }
    assert "gpt-j float32 heads 4/2 head_size 64 rotary_dim 32" in signatures["glm4"]
    assert "neox float32 heads 4/2 head_size 64 rotary_dim 64" in signatures["llama3"]


SETTINGS = {
    "on": {"ROPE_PATCH_TEST_IMPORT": "1", "VLLM_ASCEND_TRITON_ROPE": "1"},
    "off": {"ROPE_PATCH_TEST_IMPORT": "1", "VLLM_ASCEND_TRITON_ROPE": "0"},
    "gone": {},  # rope_patch is not imported, as after uninstalling it
}


def test_vllms_compile_cache_never_serves_a_graph_of_the_other_setting(
    folder: Path, tmp_path: Path, forks: Forks
) -> None:
    """In vLLM's own compile mode, which loads ahead-of-time compiled graphs before it traces anything."""
    served, loaded = [], []
    for turn, setting in enumerate(("on", "gone", "off", "on")):
        name = f"cache-{turn}"
        arguments = ["--cases", "llama3:float32", "--mode", "compiled"]
        environment = {
            **SETTINGS[setting],
            "VLLM_PLUGINS": "rope_patch_test",  # part of the cache's key, so it must not differ between turns
            "ROPE_PATCH_TEST_COMPILE": "vllm",
            "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
            "VLLM_CACHE_ROOT": str(tmp_path / "vllm-cache"),
            "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "inductor-cache"),
        }
        result = run(folder, name, *arguments, forks=forks, **environment)["llama3", "float32"]["plain"]
        loaded.append("Directly load AOT compilation" in (folder / f"{name}.log").read_text())
        assert ("status" in result["worker"]) == (setting != "gone"), "rope_patch was imported or not"
        calls = result["worker"].get("status", {"calls": {}})["calls"]
        assert (calls.get("op", 0) >= ENOUGH) == (setting == "on"), (turn, setting, calls)
        served.append(result["tokens"])
    # Switched off, vLLM knows our names, so its key is not that of a process without rope_patch either.
    assert loaded == [False, False, False, True]
    assert all(tokens == served[0] for tokens in served)


WAYS = {
    # VLLM_PLUGINS is an allow-list. Without our entry point's name in it, vLLM does not load the plugin.
    "plugin": {"VLLM_PLUGINS": "rope_patch,rope_patch_test"},
    "sitecustomize": {
        "VLLM_PLUGINS": "rope_patch_test",
        "PYTHONPATH": str(ROOT / "rope_patch" / "bootstrap"),
    },
    "import": {"VLLM_PLUGINS": "rope_patch_test", "ROPE_PATCH_TEST_IMPORT": "1"},
    "all of them": {
        "PYTHONPATH": str(ROOT / "rope_patch" / "bootstrap"),
        "ROPE_PATCH_TEST_IMPORT": "1",
        "ROPE_PATCH_TEST_START_METHOD": "fork",
    },
}


@pytest.mark.parametrize("way", WAYS)
def test_every_way_in_reaches_engine_core_and_worker(folder: Path, tmp_path: Path, eager: Results, way: str) -> None:
    arguments = ["--cases", "llama3:float32", "--mode", "eager"]
    name = f"way-{way.replace(' ', '-')}"
    result = run(folder, name, *arguments, ROPE_PATCH_TEST_WITNESS=str(tmp_path), **WAYS[way])["llama3", "float32"]
    worker = result["plain"]["worker"]
    assert worker["pid"] != result["driver_pid"]
    assert worker["status"]["calls"]["eager"] >= ENOUGH
    assert worker["status"]["fallbacks"] == {}
    assert result["plain"]["tokens"] == eager["llama3", "float32"]["plain"]["tokens"]
    if way == "all of them":
        return  # a forked engine core inherits its parent's plugins and runs none, so it leaves no note
    notes = [json.loads(note.read_text()) for note in tmp_path.iterdir()]
    assert {"MainProcess", "EngineCore"} <= {note["process"] for note in notes}, notes
    assert all(note["armed"] for note in notes), notes
    log = (folder / f"{name}.log").read_text()
    assert re.search(r"rotary_embedding(, \w+)* applied", log), "vLLM's log does not say that the patch is on"


def test_without_a_way_in_nothing_is_patched(folder: Path, tmp_path: Path) -> None:
    arguments = ["--cases", "llama3:float32", "--mode", "eager"]
    environment = {"VLLM_PLUGINS": "rope_patch_test", "ROPE_PATCH_TEST_WITNESS": str(tmp_path)}
    worker = run(folder, "no-way", *arguments, **environment)["llama3", "float32"]["plain"]["worker"]
    assert not worker["own_forward_oot"]
    assert worker["bound_to_us"] == [False]
    notes = [json.loads(note.read_text()) for note in tmp_path.iterdir()]
    assert {"MainProcess", "EngineCore"} <= {note["process"] for note in notes}, notes
    assert not any(note["armed"] for note in notes), notes
