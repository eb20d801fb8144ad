"""``doctor`` on YaRN's cache: what it says of the installed vLLM's and vllm-ascend's source, which it does not run.

``tests/ascend_stack/test_drift.py`` compares that with the caches that the real packages make.
"""

import sys
from pathlib import Path

import pytest

from rope_patch.cli import yarn

CLASS = "class {name}:\n    def __init__(self, dtype, *, beta_slow=1{truncate}):\n        raise OSError\n"


def packages(folder: Path, monkeypatch: pytest.MonkeyPatch, **truncate: str) -> None:
    """Write both packages, whose import would fail, and have them found."""
    for package, (file, name) in yarn.PLACES.items():
        source = folder / package / file
        source.parent.mkdir(parents=True)
        (folder / package / "__init__.py").write_text("raise OSError('imported')")
        source.write_text(CLASS.format(name=name, truncate=truncate[package]))
        monkeypatch.delitem(sys.modules, package, raising=False)
    monkeypatch.syspath_prepend(folder)


@pytest.mark.parametrize(
    ("vllm", "vllm_ascend", "said"),
    [
        ("", "", "made as by vLLM"),
        (", truncate: bool = True", ", truncate: bool = True", "made as by vLLM"),
        (", truncate: bool = True", "", "models whose rope parameters have truncate (gpt-oss) fail"),
        (", truncate: bool = True", ", truncate: bool = False", "set truncate to true in their rope parameters"),
        (", truncate: bool = True", ", truncate: bool = not True", "not found in the installed source: ValueError"),
    ],
    ids=["neither has it", "the same default", "vLLM's only", "another default", "no constant"],
)
def test_the_defaults_of_both_are_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, vllm: str, vllm_ascend: str, said: str
) -> None:
    packages(tmp_path, monkeypatch, vllm=vllm, vllm_ascend=vllm_ascend)
    (finding,) = yarn.findings()
    assert finding.found.endswith(said) or said in finding.found
    assert finding.ok is None, "it is not ours to mend, and doctor's verdict does not depend on it"


def test_without_vllm_ascend_nothing_is_said_and_an_unknown_arrangement_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packages(tmp_path, monkeypatch, vllm="", vllm_ascend="")
    (tmp_path / "vllm_ascend" / yarn.PLACES["vllm_ascend"][0]).write_text("")
    (finding,) = yarn.findings()
    assert finding.found.endswith("ops/rotary_embedding.py has no AscendYaRNRotaryEmbedding.__init__")
    monkeypatch.setattr(yarn.importlib.util, "find_spec", lambda name: None)
    assert not list(yarn.findings())
