"""Under the kill switch the real vLLM starts, by every way in: it knows our variables, and one line says off."""

from pathlib import Path

import pytest

from rope_patch import __version__
from rope_patch.cli.install import PTH
from rope_patch.settings import VARIABLE
from tests.conftest import ROOT, Run

pytest.importorskip("vllm", reason="needs the real vLLM")

ENVIRONMENT = {"ROPE_PATCH_TEST_PLATFORM": "1", "TRITON_INTERPRET": "1", "VLLM_LOGGING_LEVEL": "INFO"}
# As vLLM's processes do it: plugins, then the check of variables, then the model's classes.
CODE = """
import logging
lines, make = [], logging.getLogRecordFactory()
def noting(*arguments, **named):
    record = make(*arguments, **named)
    if record.name == "vllm.rope_patch":
        lines.append((record.levelname, record.getMessage()))
    return record
logging.setLogRecordFactory(noting)
logging.getLogger("vllm.rope_patch").setLevel(logging.INFO)  # as vLLM's command sets it
import vllm.envs
LOAD
from vllm.platforms import current_platform
current_platform.validate_environ(hard_fail=True)
import vllm.model_executor.layers.rotary_embedding as package
print(lines, "forward_oot" in vars(package.RotaryEmbedding))
"""
SAID = f"rope_patch {__version__}: off: switched off by VLLM_ASCEND_TRITON_ROPE=0; vLLM serves natively"
LINE = f"[('INFO', '{SAID}')] False"


def test_without_us_vllm_refuses_the_variable(forked_python: Run) -> None:
    code = "import sys; sys.modules['rope_patch'] = None\n" + CODE.replace("LOAD", "").replace(
        "current_platform.validate_environ(hard_fail=True)",
        "try: current_platform.validate_environ(hard_fail=True)\nexcept ValueError as error: print(error)",
    )
    assert f"Unknown vLLM environment variable detected: {VARIABLE}" in forked_python(
        code, **ENVIRONMENT | {VARIABLE: "0"}
    )


@pytest.mark.parametrize(
    ("first", "load"),
    [("import rope_patch\n", ""), ("", "from vllm.plugins import load_general_plugins; load_general_plugins()")],
    ids=["import", "plugin"],
)
def test_by_import_or_as_vllms_plugin_vllm_accepts_it_and_one_line_says_off(
    forked_python: Run, first: str, load: str
) -> None:
    printed = forked_python(first + CODE.replace("LOAD", load), **ENVIRONMENT | {VARIABLE: "0"})
    assert printed.splitlines()[-1] == LINE


@pytest.mark.parametrize("way", ["sitecustomize", ".pth"])
def test_by_a_file_that_python_reads_at_its_start_vllm_accepts_it_and_one_line_says_off(
    python: Run, tmp_path: Path, way: str
) -> None:
    code, path = CODE.replace("LOAD", ""), (ROOT / "rope_patch" / "bootstrap",)
    if way == ".pth":
        site = tmp_path / "site"
        site.mkdir()
        (site / "rope_patch.pth").write_text(PTH)
        code, path = f"import site; site.addsitedir({str(site)!r})\n" + code, ()
    assert python(code, path=path, **ENVIRONMENT | {VARIABLE: "0"}).splitlines()[-1] == LINE
