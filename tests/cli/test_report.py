"""``rope-patch report``: it goes on where a part fails, names nobody, and can be shown as rows of the README's table.

The parts are doubles here, each in a process of its own; ``test_bench.py`` shows the answers of the real verbs.
"""

import json
import re
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from rope_patch.cli import main, report, report_machine, report_parts, report_rows
from rope_patch.cli.answer import CannotAnswer
from rope_patch.settings import REPORT

SHAPE = {"name": "glm4", "head_size": 128, "rotary_dim": 64, "num_heads": 32, "num_kv_heads": 2, "is_neox_style": False}
DEVICE = "npu:0 (Ascend910B3)"
SIDE = {"serves": "kernel", "outcome": "right", "wrong": 0, "lanes": 10, "max_error": 0.0, "said": None}
WRONG = {**SIDE, "serves": "vllm.npu_rotary_embedding", "outcome": "WRONG", "wrong": 3, "max_error": 9.3}
TIME = {"median_us": 112.44, "spread_us": 0.52}
TIMES = {"host": TIME, "device": TIME, "device_by": "graph replay"}
ROW = {
    "shape": SHAPE, "tokens": 8192, "serves": "kernel", "natively": "vllm.npu_rotary_embedding", "reason": None,
    "remarks": ["native differs in 3 of 10 lanes"], "fault": None, "patched": TIMES,
    "native": {**TIMES, "device": {"median_us": 1387.0, "spread_us": 2.0}, "device_by": "calls, with the host in it"},
}  # fmt: skip
ANSWERS: dict[str, Any] = {
    "doctor": {"verdict": "would be patched", "findings": [
        {"name": "import vllm", "ok": None, "found": "answers from /home/carol/x/vllm", "fix": None},
        {"name": "driver", "ok": False, "found": "tcp://10.1.2.3:29500 at carol", "fix": "see /opt/x"}]},
    "status": {"folder": "/reports", "unreadable": [{"name": "x"}], "problems": ["worker 7: on gpu-node-9 is native"],
        "processes": [{"process": {"role": "worker", "rank": 0, "world_size": 2, "host": "gpu-node-9.corp", "pid": 7},
            "life": "live on gpu-node-9.corp", "status": {"calls": {"a": 3}, "fallbacks": {"b": 1}, "reason": "on"}}]},
    "verify": {"device": DEVICE, "verdict": "all 1 right", "way": "vLLM's own model code", "results": [
        {"shape": SHAPE, "dtype": "bfloat16", "with": SIDE, "without": WRONG, "table": None}]},
    "bench": {"device": DEVICE, "dtype": "bfloat16", "results": [ROW, {**ROW, "tokens": 1, "patched": None,
        "fault": "ub overflow", "native": None, "remarks": ["native cannot be run: OSError: in '/srv/carol b/c'"]}]},
}  # fmt: skip
SECRETS = "carol", "gpu-node-9", "/home", "/opt", "/srv", "10.1.2.3", "/reports", "corp"
MACHINE = {
    "driver": "25.0.1", "cann": "8.2.RC1", "compiler": None, "device_files": 8, "python": "3.11.7",
    "system": "Linux aarch64", "versions": {"rope-patch": "0.1.0", "vllm-ascend": "0.23.0", "triton": None},
}  # fmt: skip
VERB = "import json, sys, time, os, signal\nanswers = json.load(open({place!r}))\nverb = sys.argv[1]\n"
ANSWERS_IT = "print('a library says so')\nprint(json.dumps(answers[verb], indent=1))\nprint('and again')\n"


@pytest.fixture
def at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "answers.json").write_text(json.dumps(ANSWERS))
    monkeypatch.setattr(report_machine, "described", lambda: MACHINE)
    monkeypatch.setenv(REPORT, "/reports")
    monkeypatch.setenv("USER", "carol")
    behaves(monkeypatch, tmp_path)
    return tmp_path


def behaves(monkeypatch: pytest.MonkeyPatch, folder: Path, special: str = "") -> None:
    """Have each part run this code, and then print its answer."""
    code = VERB.format(place=str(folder / "answers.json")) + special + ANSWERS_IT
    monkeypatch.setattr(report_parts, "COMMAND", (sys.executable, "-c", code))


def made(at: Path, *arguments: str) -> tuple[int, Any, str]:
    """The exit status, the data, and the page."""
    status = main(["report", "--output", str(at / "out"), *arguments])
    return status, json.loads((at / "out.json").read_text()), (at / "out.txt").read_text()


def test_it_has_all_parts_and_says_before_what_it_runs_and_after_what_to_do(at: Path, capsys: Any) -> None:
    status, data, page = made(at)
    said = capsys.readouterr()
    assert status == 0
    assert [part["status"] for part in data["parts"].values()] == [0, 0, 0, 0]
    for verb in "doctor", "status", "verify", "bench":
        assert f"\n{verb}: all is well" in page
        assert f"{verb}: " in said.err
    assert "float64, with rope_patch and without; minutes, ended after 30 minutes" in said.err
    assert "attach both files to what you report" in said.out
    assert "CANN 8.2.RC1" in page
    assert "glm4   32/2   64 of 128  gpt-j  bfloat16  kernel: right" in page
    assert "WRONG, 3 of 10 lanes by up to 9.3" in page
    assert "1387.0* ±2.0" in page
    assert data["parts"]["status"]["answer"]["processes"][0]["life"] == "live"


@pytest.mark.parametrize("word", ["bench", "device", "tokens", "style", "verify", "size", "results", "glm4"])
def test_a_user_or_a_model_that_is_called_as_a_field_takes_nothing_away(
    at: Path, monkeypatch: pytest.MonkeyPatch, word: str
) -> None:
    monkeypatch.setenv("USER", word)
    monkeypatch.setenv("BACKEND", "device_by")
    _, data, page = made(at, word)
    assert data["parts"]["bench"]["answer"]["results"][0]["shape"]["head_size"] == 128
    assert "112.4" in page


def test_a_page_that_cannot_be_made_leaves_the_data(at: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report.report_page, "chip", lambda data: data["no such field"])
    _, data, page = made(at)
    assert data["parts"]["verify"]["status"] == 0
    assert "The page could not be made (KeyError" in page


def test_nothing_in_the_files_names_a_machine_a_person_or_a_place(at: Path) -> None:
    made(at)
    for file in "out.json", "out.txt":
        text = (at / file).read_text()
        assert not [secret for secret in (*SECRETS, str(at)) if secret in text]


@pytest.mark.parametrize(
    ("special", "status", "why"),
    [
        ("if verb == 'verify': print(json.dumps({'error': 'no triton in /home/carol'}), file=sys.stderr); exit(2)\n", 2,
         "no triton in <path>"),
        ("if verb == 'verify': os.kill(os.getpid(), signal.SIGSEGV)\n", 2, "ended by signal 11"),
        ("if verb == 'verify': raise OSError('device lost')\n", 2, "exit status 1; .*device lost"),
        ("if verb == 'verify': time.sleep(60)\n", 2, "not done after 1 seconds"),
        ("if verb == 'bench': print(json.dumps(answers[verb])); exit(1)\n", 1, None),
    ],
    ids=["it says why", "it dies", "it raises", "it hangs", "it finds a fault"],
)  # fmt: skip
def test_a_part_that_fails_says_why_and_the_others_are_run(
    at: Path, monkeypatch: pytest.MonkeyPatch, special: str, status: int, why: str | None
) -> None:
    behaves(monkeypatch, at, special)
    if why and why.startswith("not done"):
        parts = [part._replace(limit=1 if part.verb == "verify" else 60) for part in report._parts(None, 1)]
        monkeypatch.setattr(report, "_parts", lambda *of: parts)
    ended, data, page = made(at)
    assert ended == status
    assert data["parts"]["bench"]["answer"]["device"] == DEVICE
    if why:
        found = data["parts"]["verify"]
        assert found["status"] is None
        assert re.search(why, found["why"])
        assert f"verify: {found['why']}" in page


def test_an_interrupt_ends_the_part_and_the_report_is_written(at: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    behaves(monkeypatch, at, "if verb == 'verify': os.kill(os.getppid(), signal.SIGINT); time.sleep(60)\n")
    ended, data, _ = made(at)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert ended == 2
    assert [part.get("why") for part in data["parts"].values()] == [None, None, "interrupted", "interrupted"]


def test_without_a_report_folder_status_is_left_out_and_the_model_is_asked_of_the_others(
    at: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(REPORT)
    behaves(monkeypatch, at, "answers[verb]['verdict'] = ' '.join(sys.argv[2:])\n")
    ended, data, _ = made(at, "/models/of carol", "-tp", "8")
    assert ended == 0
    assert "names no folder" in data["parts"]["status"]["why"]
    assert data["parts"]["verify"]["answer"]["verdict"] == "<path> -tp 8 --json"


def test_files_that_cannot_be_written_are_said_before_anything_is_run(
    at: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setattr(report_parts, "run", lambda *of: pytest.fail("it ran"))
    (at / "there.txt").write_text("mine")
    for place, said in ((at / "there", "exists already"), (at / "no" / "x", "there is no folder")):
        assert main(["report", "--output", str(place)]) == 2
        assert said in capsys.readouterr().err
    assert (at / "there.txt").read_text() == "mine"


def test_a_report_is_shown_as_rows_of_the_readmes_table(at: Path, capsys: Any) -> None:
    made(at)
    capsys.readouterr()
    assert main(["report", "--rows", str(at / "out.json")]) == 0
    source, _, header, _, row = capsys.readouterr().out.splitlines()
    assert source.startswith("Microseconds on Ascend910B3, bfloat16, median ± distance between quartiles")
    assert "rope-patch 0.1.0, vllm-ascend 0.23.0, CANN 8.2.RC1, driver 25.0.1; 20" in source
    assert header == "| query/kv heads, rotary dim | Ascend910B3, *measured*, 1 token | Ascend910B3, 8,192 tokens |"
    assert row == "| glm4 (32/2 heads, 64 of 128, GPT-J) | FAULT, - | 112.4 ± 0.5, 1387.0* ± 2.0 (wrong) |"


def test_without_a_drivers_device_file_nothing_is_called_measured(at: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report_machine, "described", lambda: {**MACHINE, "device_files": 0})
    _, data, page = made(at)
    assert "*measured*" not in report_rows.table_of(data)
    assert "*executed* without a device" in report_rows.table_of(data)
    assert "no figure here is a device's" in page


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"parts": {"bench": {"answer": {}}}}', "[" * 10000, '{"parts": 1}']
)
def test_what_is_no_report_is_one_sentence(tmp_path: Path, content: str) -> None:
    (tmp_path / "x").write_text(content)
    with pytest.raises(CannotAnswer, match="is no report"):
        report_rows.loaded(str(tmp_path / "x"))


def test_versions_are_read_from_the_files_of_driver_and_cann(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "driver").mkdir()
    (tmp_path / "driver" / "version.info").write_text("Version=25.0.rc1.b020\nascendhal_version=7.35\n")
    (tmp_path / "aarch64-linux").mkdir()
    (tmp_path / "aarch64-linux" / "ascend_toolkit_install.info").write_text("package_name=x\nversion=8.2.RC1\n")
    monkeypatch.setattr(report_machine, "ASCEND", tmp_path)
    monkeypatch.setenv("ASCEND_HOME_PATH", str(tmp_path))
    assert (report_machine.driver(), report_machine.cann()) == ("25.0.rc1.b020", "8.2.RC1")
    (tmp_path / "driver" / "version.info").unlink()
    (tmp_path / "aarch64-linux" / "ascend_toolkit_install.info").unlink()
    (tmp_path / "version.cfg").write_text("# at\nruntime_running_version=[7.3.0.1.231:8.0.RC1]\n")
    assert report_machine.cann() == "8.0.RC1"
    assert set(report_machine.described()) == set(MACHINE)
