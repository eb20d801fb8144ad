"""``python -m scripts.releases``, on sources written here: what it says of a release, and when it exits with 1."""

import itertools
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch", reason="the targets need torch")
pytest.importorskip("triton", reason="the targets need triton")

from rope_patch import capability
from rope_patch.patching.targets import qkv_rmsnorm_mrope, qkv_rmsnorm_rope
from scripts.releases import __main__ as releases
from scripts.releases import report, verdicts
from tests.conftest import ROOT

COVERAGE = ROOT / "rope_patch" / "patching" / "targets" / "README.md"

LAYERS = "vllm/model_executor/layers/rotary_embedding"
KERNEL = """
def rope_forward_triton(
    q, k, cos=None, sin=None, cos_sin_cache=None, positions=None, rope_dim=-1, is_neox_style=True{}
): 1 / 0
"""
ASCEND = """
from vllm.model_executor.layers.rotary_embedding import MRotaryEmbedding, RotaryEmbedding
if HAS_TRITON:
    from vllm_ascend.ops.triton.rope import rope_forward_triton
raise SystemExit("executed")
class AscendRotaryEmbedding(RotaryEmbedding):
    def forward_oot(self, positions, query, key: torch.Tensor, offsets=None, is_neox_style_override=None): 1 / 0
class AscendMRotaryEmbedding(MRotaryEmbedding):
    def forward_oot(self, positions, query, key): 1 / 0
"""
BASE = """
from vllm.model_executor.custom_op import CustomOp
class RotaryEmbedding(CustomOp):
    def forward_native(self, positions: Absent, query, key=None): 1 / 0
"""
MROPE = """
from .base import RotaryEmbedding
class MRotaryEmbedding(RotaryEmbedding):
    def forward_native(self, positions, query, key=absent(), offsets=None): 1 / 0
"""
OP = """
@absent.decorate
class CustomOp(absent.Module):
    def forward_oot(self): 1 / 0
"""
FUSED = "vllm_ascend/ops/triton/linearnorm/split_qkv_rmsnorm"
NORMED = """
@triton.jit(do_not_specialize=absent)
def split_qkv_rmsnorm_{}_kernel({}: tl.constexpr): 1 / 0
"""
SOURCES = {
    f"{FUSED}_rope.py": NORMED.format("rope", ", ".join(qkv_rmsnorm_rope.FROM_0_16)),
    f"{FUSED}_mrope.py": NORMED.format("mrope", ", ".join(qkv_rmsnorm_mrope.PARAMETERS)),
    "vllm/model_executor/custom_op.py": OP,
    f"{LAYERS}/__init__.py": "from .mrope import MRotaryEmbedding\nfrom .base import RotaryEmbedding",
    f"{LAYERS}/base.py": BASE,
    f"{LAYERS}/mrope.py": MROPE,
    "vllm_ascend/ops/triton/rope.py": KERNEL.format(""),
    "vllm_ascend/ops/rotary_embedding.py": ASCEND,
    "PKG-INFO": "Requires-Dist: torch==2.10.0\nRequires-Dist: triton-ascend (==3.2.2)\nRequires-Dist: numpy==1\n",
    "Dockerfile": "ARG VLLM_TAG=v0.30.0\n",
}


def write(folder: Path, **changed: str) -> Path:
    for name, text in (SOURCES | changed).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def test_targets_look_at_upstreams_source_which_is_not_executed(tmp_path: Path) -> None:
    found = verdicts.targets(write(tmp_path))
    assert found.pop("longrope") == "native: this release has no such module"
    assert found.pop("ascend_rotary_class").startswith("native: rotates through rope_forward_triton")
    assert set(found.values()) == {"applied"}
    assert verdicts.pins(tmp_path) == {"torch": "2.10.0", "triton-ascend": "3.2.2"}
    assert [verdicts.vllm_of(tmp_path, "0.30.0rc2"), verdicts.vllm_of(tmp_path / "none", "0.23.0.post1")] == [
        "0.30.0",
        "0.23.0",
    ]


@pytest.mark.parametrize(
    ("file", "old", "new", "target", "why"),
    [
        ("vllm_ascend/ops/triton/rope.py", "=True", "=True, scale=None", "ascend_rope_kernel", "scale is not known"),
        (f"{LAYERS}/base.py", "forward_native", "native", "rotary_embedding", "no RotaryEmbedding.forward_native"),
        ("vllm/model_executor/custom_op.py", "forward_oot", "oot", "rotary_embedding", "no forward_oot"),
        ("vllm_ascend/ops/rotary_embedding.py", "key: torch.Tensor", "key: T | None", "ascend_without_key", "itself"),
        ("vllm_ascend/ops/rotary_embedding.py", "query, key)", "query)", "ascend_mrope", "key is missing"),
        (f"{FUSED}_rope.py", " eps,", " eps, scale,", "qkv_rmsnorm_rope", "scale is not known"),
        (f"{FUSED}_mrope.py", " rope_dim,", "", "qkv_rmsnorm_mrope", "rope_dim is missing"),
    ],
)
def test_a_target_that_would_be_refused_says_why(
    tmp_path: Path, file: str, old: str, new: str, target: str, why: str
) -> None:
    found = verdicts.targets(write(tmp_path, **{file: SOURCES[file].replace(old, new)}))
    assert found[target].startswith("native: ")
    assert why in found[target]


def test_of_a_release_before_0_11_every_target_would_be_refused(tmp_path: Path) -> None:
    base = SOURCES[f"{LAYERS}/base.py"].replace("key=None", "key=None, offsets=None")
    found = verdicts.targets(write(tmp_path, **{f"{LAYERS}/base.py": base}))
    assert found.pop("longrope") == "native: this release has no such module"
    assert set(found.values()) == {f"native: release: {capability.OLDER}"}


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, list[str]]:
    """A registry of these sources, and answers that were kept of it."""
    there = {"vllm-ascend": ["0.30.0rc2"], "vllm": ["0.23.0", "0.30.0"]}
    source = write(tmp_path / "source")

    def answer(python: Path, verb: str, *arguments: str) -> Any:
        if verb == "list":
            return there
        shutil.copytree(source, arguments[2], dirs_exist_ok=True)
        if arguments[0] == "vllm-ascend":
            shutil.rmtree(Path(arguments[2]) / "vllm")
        return None

    monkeypatch.setattr(releases, "registry", answer)
    monkeypatch.setattr(report, "RESULTS", tmp_path / "results.json")
    assert run(monkeypatch, "--keep") == 1, "both are new"
    return there


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr("sys.argv", ["releases", *arguments])
    return releases.main()


def test_nothing_new_is_exit_status_0(registry: dict[str, list[str]], monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(monkeypatch) == run(monkeypatch, "--new") == 0
    assert list(json.loads(report.RESULTS.read_text())["vllm"]) == ["0.30.0"], "older ones with their vllm-ascend only"


@pytest.mark.parametrize(("package", "version"), [("vllm-ascend", "0.31.0rc1"), ("vllm", "0.34.0")])
def test_a_release_that_was_not_there_is_named_with_exit_status_1(
    registry: dict[str, list[str]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    package: str,
    version: str,
) -> None:
    registry[package].append(version)
    for how in ([], ["--new"]):
        assert run(monkeypatch, *how) == 1
        assert f"new: {package} {version}" in capsys.readouterr().out


def test_a_target_that_is_refused_now_is_named_with_exit_status_1(
    registry: dict[str, list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "source" / "vllm_ascend/ops/triton/rope.py").write_text(KERNEL.format(", scale=None"))
    assert run(monkeypatch) == 1
    said = capsys.readouterr().out
    assert "changed: vllm-ascend 0.30.0rc2: ascend_rope_kernel was applied, is native: " in said
    assert "scale is not known" in said


def test_without_a_registry_nothing_is_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for python in ("/nowhere/python", "false"):
        assert run(monkeypatch, "--pip", python) == 2
    assert "without a registry" in capsys.readouterr().err


def test_the_readmes_table_is_of_the_kept_answers() -> None:
    assert "\n".join(report.table(report.kept())) in COVERAGE.read_text()


def test_before_0_11_nothing_is_replaced() -> None:
    before = dict(itertools.takewhile(lambda item: item[0] != "0.11.0rc0", report.kept()["vllm-ascend"].items()))
    assert {"0.7.1rc1", "0.10.2rc1"} <= set(before)
    for version, answer in before.items():
        assert "applied" not in answer["targets"].values(), version


def test_in_every_release_since_0_11_one_target_is_for_each_class() -> None:
    for version, answer in report.since_the_first(report.kept()):
        applied = [name for name, state in answer["targets"].items() if state == "applied"]
        assert {"rotary_embedding", "mrope", "longrope", "ascend_mrope"} <= set(applied), version
        assert len({"ascend_rope_kernel", "ascend_rotary_class"} & set(applied)) == 1, version
        for name in ("qkv_rmsnorm_rope", "qkv_rmsnorm_mrope"):
            assert answer["targets"][name] in ("applied", "native: this release has no such module"), version
    for version, answer in report.kept()["vllm"].items():
        assert set(answer["targets"].values()) == {"applied"}, version
