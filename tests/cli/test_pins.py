"""``doctor`` on versions: what vllm-ascend asks for, what is here, and what rope_patch was run with."""

import importlib.metadata

import pytest

from rope_patch.cli import pins

HERE = {"vllm-ascend": "0.23.0", "torch-npu": "2.13.0", "transformers": "4.57.1"}


@pytest.fixture(autouse=True)
def installed(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    here = dict(HERE)

    def version(name: str) -> str:
        if name not in here:
            raise importlib.metadata.PackageNotFoundError(name)
        return here[name]

    asked = [
        "numpy",
        "torch-npu==2.10.0.post4",
        "triton_ascend (==3.2.2)",
        "transformers==5.5.4 ; python_version > '3'",
    ]
    monkeypatch.setattr(importlib.metadata, "version", version)
    monkeypatch.setattr(importlib.metadata, "requires", lambda name: asked)
    return here


def test_what_is_asked_for_and_what_is_here_are_named_and_what_we_ran_with() -> None:
    (finding,) = pins.findings()
    assert finding.ok is None
    assert finding.found == (
        "vllm-ascend 0.23.0 asks for torch-npu 2.10.0.post4 (here 2.13.0), triton-ascend 3.2.2 (not here), "
        "transformers 5.5.4 (here 4.57.1); rope_patch was run with triton-ascend 3.2.0 and torch-npu 2.13.0 only"
    )


def test_without_vllm_ascend_nothing_is_said(installed: dict[str, str]) -> None:
    del installed["vllm-ascend"]
    assert not list(pins.findings())


def test_a_release_without_pins_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.metadata, "requires", lambda name: None)
    (finding,) = pins.findings()
    assert finding.found.startswith("vllm-ascend 0.23.0 asks for none; ")
