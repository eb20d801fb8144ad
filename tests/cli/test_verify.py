"""``rope-patch verify`` without vLLM: exit status 0 if the kernel is right, and 1 if it is not.

``test_sides.py`` has what it says of vLLM's modules, and ``test_bench.py`` runs it with the real vLLM.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="verify needs torch")
pytest.importorskip("triton", reason="verify needs triton")

from rope_patch.cli import main, rope_config, sides, verify  # noqa: E402
from rope_patch.kernels.launch import Launch  # noqa: E402
from rope_patch.operators import dispatch  # noqa: E402
from tests.rotations import DEVICE  # noqa: E402

CONFIG = {
    "model_type": "stablelm",
    "hidden_size": 320,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "partial_rotary_factor": 0.25,
    "max_position_embeddings": 128,
}


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    dispatch.forget()
    monkeypatch.setattr(verify, "choose_device", lambda: torch.device(DEVICE))
    monkeypatch.setattr(verify, "_examiner", lambda device: lambda *of: [sides.without_vllm(*of, device, "not here")])
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    yield str(tmp_path)
    dispatch.forget()  # forget the check of a test's broken kernel


def verified(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[dict[str, Any], int]:
    status = main(["verify", "--json", *arguments])
    return json.loads(capsys.readouterr().out), status


def test_the_kernel_is_right_for_a_models_shape_in_every_dtype(model: str, capsys: Any) -> None:
    said, status = verified(capsys, model)
    assert status == 0
    assert [result["dtype"] for result in said["results"]] == ["float16", "bfloat16", "float32"]
    for result in said["results"]:
        assert (result["shape"]["head_size"], result["shape"]["rotary_dim"]) == (80, 20)
        assert result["lanes"] == sum(sides.TOKENS_INTERPRETED) * 2 * (4 + 2) * 80
        assert (result["with"]["serves"], result["with"]["outcome"]) == (sides.DIRECTLY, sides.RIGHT)
        assert (result["without"]["outcome"], result["without"]["said"]) == (sides.NOT_HERE, "not here")
        assert 0 < result["max_ulp"] < 2


MISTAKES = {
    "a lane": lambda out: out.flatten()[3].mul_(1.01),
    "not written": lambda out: out.flatten()[-1].fill_(float("nan")),
    "pass-through": lambda out: out.view(-1, 80)[0, 79].add_(0.25),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_one_wrong_lane_is_found(model: str, capsys: Any, monkeypatch: pytest.MonkeyPatch, mistake: str) -> None:
    """A mistake that the first-use check does not see."""
    right = dispatch.dispatch

    def wrong(*arguments: Any) -> Any:
        rotated: Any = right(*arguments)
        MISTAKES[mistake](rotated[0])
        return rotated

    monkeypatch.setattr(dispatch, "dispatch", wrong)
    said, status = verified(capsys, model, "--dtype", "bfloat16")
    assert status == 1
    (result,) = said["results"]
    assert 1 <= result["wrong"] <= len(sides.TOKENS_INTERPRETED) * 2
    assert not result["ok"]
    assert main(["verify", model, "--dtype", "bfloat16"]) == 1
    assert "WRONG" in capsys.readouterr().out


def test_a_kernel_that_the_first_use_check_rejects_is_exit_status_1(
    model: str, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = Launch.on

    def wrong(launch: Launch, call: Any, query_out: Any, key_out: Any) -> Any:
        started = right(launch, call, query_out, key_out)
        (call.query.tensor if query_out is None else query_out).flatten()[-1:].fill_(float("nan"))
        return started

    monkeypatch.setattr(Launch, "on", wrong)
    said, status = verified(capsys, model, "--dtype", "float16")
    assert status == 1
    assert "first-use check failed" in said["results"][0]["fault"]


def test_a_kernel_that_does_not_compile_is_exit_status_1(
    model: str, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*arguments: Any) -> None:
        raise RuntimeError("ub overflow")

    monkeypatch.setattr(Launch, "on", fails)
    said, status = verified(capsys, model, "--dtype", "float16")
    assert status == 1
    assert "ub overflow" in said["results"][0]["fault"]


VISION = {"model_type": "glm4v", "max_position_embeddings": 128, "num_attention_heads": 2, "num_key_value_heads": 1}
ROPES = {
    "chunked, GPT-J, half": {"mrope_section": [8, 12, 12], "rope_theta": 1e4},
    "interleaved": {"mrope_section": [24, 20, 20], "mrope_interleaved": True, "partial_rotary_factor": 1.0},
}


@pytest.mark.parametrize("rope", ROPES)
def test_a_multimodal_model_is_rotated_with_three_different_positions(
    model: str, capsys: Any, monkeypatch: pytest.MonkeyPatch, rope: str
) -> None:
    text = {**VISION, "model_type": "glm4v_text", "head_dim": 128, "rope_parameters": ROPES[rope]}
    Path(model, "config.json").write_text(json.dumps({"model_type": "glm4v", "text_config": text}))
    said, status = verified(capsys, model, "--dtype", "bfloat16")
    (result,) = said["results"]
    assert (status, result["wrong"], result["fault"]) == (0, 0, None)
    assert result["shape"]["sections"]["pairs"] == ROPES[rope]["mrope_section"]
    right = dispatch.dispatch

    def by_time(positions: Any, *others: Any) -> Any:
        return right(positions[:1].expand(3, -1).contiguous(), *others)

    monkeypatch.setattr(dispatch, "dispatch", by_time)
    said, status = verified(capsys, model, "--dtype", "bfloat16")
    assert status == 1, "rows that are equal would not show a kernel that takes the wrong axis"
    assert said["results"][0]["wrong"] > 0


def test_tensor_parallel_ranks_divide_the_heads(model: str, capsys: Any) -> None:
    said, _ = verified(capsys, model, "-tp", "2", "--dtype", "float32")
    assert (said["results"][0]["shape"]["num_heads"], said["results"][0]["shape"]["num_kv_heads"]) == (2, 1)
    assert main(["verify", model, "-tp", "3"]) == 2


def test_a_rotary_dim_wider_than_its_head_is_refused(python: Any, tmp_path: Path) -> None:
    """The command refuses it before torch is imported, and ``examine`` does too; it once read beyond the head."""
    wide = rope_config.RopeConfig("wide", 64, 2**16, 2, 1, max_position=128)
    result = sides.without_vllm(wide, "float32", torch.device(DEVICE), "not here")
    assert "expected an even rotary_dim from 2 to head_size" in str(result.kernel.said)
    (tmp_path / "config.json").write_text(json.dumps({**CONFIG, "rotary_dim": 2**20}))
    printed = python(f"from rope_patch.cli import main\nprint(main(['verify', {str(tmp_path)!r}]))")
    assert printed.splitlines() == ["rope-patch: rotary_dim is 1048576, expected an even number from 2 to 80", "2"]


def test_the_built_in_list_has_gpt_j_style_and_rotary_dims_that_are_no_powers_of_two() -> None:
    odd = [shape for shape in rope_config.BUILT_IN if shape.rotary_dim & (shape.rotary_dim - 1)]
    assert len(odd) >= 4
    assert any(not shape.is_neox_style for shape in rope_config.BUILT_IN)


def test_on_a_machine_without_a_device_it_uses_the_interpreter(python: Any, model: str) -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a device")
    code = "import sys\nsys.modules['vllm'] = None\nfrom rope_patch.cli import main\n"
    printed = python(f"{code}print(main(['verify', {model!r}, '--dtype', 'float32']))")
    assert "the CPU, under Triton's interpreter: all 1 right" in printed
    assert printed.splitlines()[-1] == "0"


def test_a_check_that_was_not_possible_is_exit_status_2_and_not_wrong(
    model: str, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As beside a running vLLM: the device has no memory left for the first-use check, or for the call."""

    def no_memory(*arguments: Any) -> Any:
        raise torch.OutOfMemoryError("out of memory")

    monkeypatch.setattr(Launch, "on", no_memory)
    assert main(["verify", model, "--dtype", "float16"]) == 2
    said = capsys.readouterr().out
    assert "not all could be checked" in said
    assert "stop the vLLM that runs on this device" in said
    assert "WRONG" not in said
    dispatch.forget()
    monkeypatch.setattr(dispatch, "rotate", no_memory)
    said, status = verified(capsys, model, "--dtype", "float16")
    assert status == 2
    assert said["results"][0]["with"]["outcome"] == sides.NOT_KNOWN
