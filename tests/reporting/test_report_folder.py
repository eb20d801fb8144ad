"""VLLM_ASCEND_TRITON_ROPE_REPORT: what is written, who may read it, and that failures harm no process."""

import json
import os
import stat
from pathlib import Path
from typing import Any

import pytest

import rope_patch
from rope_patch.cli import main
from rope_patch.reporting import fitting, report_folder
from rope_patch.settings import NAMES
from tests.conftest import Run

SIGNATURE = {"path": "kernel", "check": "passed", "plans": [], "calls": 1, "fallbacks": {}}
START = "import rope_target, rope_patch\nimport vllm.model_executor.layers.rotary_embedding.base as base\n"
WAIT = """
import glob, json, os, time
def reports(condition=lambda reports: reports):  # without a time limit; pytest ends a test that waits forever
    while True:
        found = [json.load(open(f)) for f in glob.glob(os.environ["VLLM_ASCEND_TRITON_ROPE_REPORT"] + "/*.json")]
        if condition(found):
            return found
        time.sleep(0.05)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "reports"


def written(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.exists() else []


def test_a_process_that_imports_vllm_writes_its_status(with_doubles: Run, folder: Path) -> None:
    code = START + WAIT + "reports(lambda found: found and found[0]['status']['capable'])"
    with_doubles(code, VLLM_ASCEND_TRITON_ROPE_REPORT=str(folder))
    (report,), wrong = report_folder.read(str(folder))
    assert not wrong
    assert report["status"]["targets"]["rotary_embedding"] == "applied"
    assert report["process"]["role"] == "script"
    assert report["process"]["host"]


def test_only_its_user_can_read_a_report_and_it_holds_no_other_variables(with_doubles: Run, folder: Path) -> None:
    code = "import os; os.umask(0)\n" + START + WAIT + "reports()"
    ours = {"VLLM_ASCEND_TRITON_ROPE_REPORT": str(folder), "VLLM_ASCEND_TRITON_ROPE": "1"}
    with_doubles(code, HF_TOKEN="hf_secret", VLLM_API_KEY="sk-secret", **ours)
    (file,) = written(folder)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert "secret" not in file.read_text()
    assert json.loads(file.read_text())["status"]["environment"] == ours


@pytest.mark.parametrize("unset", [True, False], ids=["no folder", "no vllm"])
def test_without_a_folder_or_without_vllm_nothing_is_written_or_loaded(
    with_doubles: Run, folder: Path, unset: bool
) -> None:
    code = (
        START if unset else "import rope_patch\n"
    ) + "import sys; print('rope_patch.reporting.keeper' in sys.modules)"
    environment = {} if unset else {"VLLM_ASCEND_TRITON_ROPE_REPORT": str(folder)}
    assert with_doubles(code, **environment) == "False"
    assert not written(folder)


def test_a_process_that_is_switched_off_reports_that_and_vllm_learns_its_variables_names(
    with_doubles: Run, folder: Path
) -> None:
    code = (
        START + WAIT + "import vllm.envs\nreports(); print(len(vllm.envs.environment_variables), base.EARLY(1, 2, 3))"
    )
    environment = {"VLLM_ASCEND_TRITON_ROPE_REPORT": str(folder), "VLLM_ASCEND_TRITON_ROPE": "0"}
    assert with_doubles(code, **environment).splitlines()[-1] == f"{1 + len(NAMES)} native"
    (report,), _ = report_folder.read(str(folder))
    assert report["status"]["mode"] == "off"
    assert "VLLM_ASCEND_TRITON_ROPE=0" in report["status"]["reason"]


def test_later_changes_are_written_and_a_fork_has_its_own_report_and_counts(with_doubles: Run, folder: Path) -> None:
    code = (
        START
        + WAIT
        + """
from rope_patch.reporting import ledger
ledger.page().served["eager"][0] += 7
reports(lambda found: found and found[0]["status"]["calls"] == {"eager": 7})
child = os.fork()
if not child:
    ledger.page().served["eager"][0] += 2
    reports(lambda found: (os.getpid(), {"eager": 2}) in [(r["process"]["pid"], r["status"]["calls"]) for r in found])
    os._exit(0)
print(os.waitpid(child, 0)[1], len(reports()))
"""
    )
    assert with_doubles(code, VLLM_ASCEND_TRITON_ROPE_REPORT=str(folder)).splitlines()[-1] == "0 2"


def test_a_fork_has_its_own_counts_where_there_is_no_folder(with_doubles: Run) -> None:
    code = f"""{START}
import os
from rope_patch.reporting import ledger
ledger.page().served["eager"][0] += 7
ledger.page().fallbacks["a reason"] += 3
if not (child := os.fork()):
    ledger.page().served["eager"][0] += 2
    os._exit(not (rope_patch.status()["calls"] == {{"eager": 2}} and rope_patch.status()["fallbacks"] == {{}}))
print(os.waitpid(child, 0)[1], rope_patch.status()["calls"], rope_patch.status()["fallbacks"])
"""
    assert with_doubles(code).splitlines()[-1] == "0 {'eager': 7} {'a reason': 3}"


def test_vllm_knows_the_variables_and_they_do_not_change_its_compile_caches_key(
    with_doubles: Run, folder: Path
) -> None:
    code = START + (
        "import vllm.envs, os; known = vllm.envs.environment_variables\n"
        "print({n for n in os.environ if n.startswith('VLLM_')} <= set(known), [(n, v()) for n, v in known.items()])"
    )
    check = {"VLLM_ASCEND_TRITON_ROPE_CHECK": "0"}
    plain, checked, reported = (
        with_doubles(code, **environment).splitlines()[-1]
        for environment in ({}, check, {"VLLM_ASCEND_TRITON_ROPE_REPORT": str(folder)})
    )
    assert plain == checked == reported
    assert plain.startswith("True")


# Ends after three attempts to write a report.
HARMLESS = (
    """
from rope_patch.reporting import keeper, report_folder
keeper.SECONDS = 0.05
tried, write = [], report_folder.write
def counted(*arguments):
    tried.append(arguments)
    return write(*arguments)
report_folder.write = counted
"""
    + START
    + "print(base.EARLY(1, 2, 3), flush=True)\nimport time\nwhile len(tried) < 3: time.sleep(0.01)"
)


@pytest.mark.parametrize("where", ["/proc/no/such/folder", "/dev/null", "/proc/reports"])
def test_a_folder_that_cannot_be_written_is_warned_of_once_and_the_process_runs(with_doubles: Run, where: str) -> None:
    printed = with_doubles(HARMLESS, VLLM_ASCEND_TRITON_ROPE_REPORT=where)
    assert printed.endswith("ours")
    assert printed.count("no report in") == 1


def test_a_full_disk_leaves_neither_a_temporary_file_nor_half_a_report(with_doubles: Run, folder: Path) -> None:
    """A limit on the size of files stands for the full disk: the write fails in the same place."""
    code = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))\n" + HARMLESS
    printed = with_doubles(code, VLLM_ASCEND_TRITON_ROPE_REPORT=str(folder))
    assert printed.endswith("ours")
    assert "no report in" in printed
    assert not written(folder)


def test_a_folder_that_was_removed_is_made_again(with_doubles: Run, folder: Path) -> None:
    code = (
        "from rope_patch.reporting import keeper; keeper.SECONDS = 0.05\n"
        + START
        + WAIT
        + """
from rope_patch.reporting import ledger
reports()
os.rename(os.environ["VLLM_ASCEND_TRITON_ROPE_REPORT"], "elsewhere")  # in one step, even if a report is being written
ledger.page().served["eager"][0] += 1
print(reports(lambda found: found and found[0]["status"]["calls"])[0]["status"]["calls"])
"""
    )
    assert with_doubles(code, VLLM_ASCEND_TRITON_ROPE_REPORT=str(folder)).splitlines()[-1] == "{'eager': 1}"


def test_a_folder_of_another_user_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder.mkdir()
    mine = report_folder.current(rope_patch.status())
    monkeypatch.setattr(os, "geteuid", lambda: folder.stat().st_uid + 1)
    for act in (lambda: report_folder.write(str(folder), mine), lambda: report_folder.read(str(folder))):
        with pytest.raises(report_folder.NotOurs, match=f"belongs to user .* {folder}/rope_patch say"):
            act()
    assert not written(folder)


def test_a_link_in_the_folder_is_neither_followed_nor_written_through(folder: Path, tmp_path: Path) -> None:
    folder.mkdir()
    precious = tmp_path / "precious"
    precious.write_text("untouched")
    report_folder.write(str(folder), report_folder.current(rope_patch.status()))
    (file,) = written(folder)
    elsewhere = tmp_path / "elsewhere.json"
    file.rename(elsewhere)
    file.symlink_to(precious)
    (folder / "other.json").symlink_to(elsewhere)
    report_folder.write(str(folder), report_folder.current(rope_patch.status()))
    assert precious.read_text() == "untouched"
    found, wrong = report_folder.read(str(folder))
    assert len(found) == 1
    assert [file.name for file in wrong] == ["other.json"]


@pytest.mark.parametrize(
    "content", ["", "[]", "{", '{"process": {}, "status": {}}', "[" * 100_000, "x" * (fitting.LARGEST + 1)]
)
def test_a_file_that_is_not_a_report_is_named_and_left(folder: Path, content: str) -> None:
    folder.mkdir()
    report_folder.write(str(folder), report_folder.current(rope_patch.status()))
    (folder / "broken.json").write_text(content)
    os.mkfifo(folder / "pipe.json")
    found, wrong = report_folder.read(str(folder))
    assert len(found) == 1
    assert [file.name for file in wrong] == ["broken.json", "pipe.json"]


def mangled(report: Any, *place: str, value: Any) -> Any:
    """A copy of the report with another value at ``place``."""
    inner = report = json.loads(json.dumps(report))
    for name in place[:-1]:
        inner = inner[name]
    inner[place[-1]] = value
    return report


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ((), []),
        (("process",), None),
        (("process", "pid"), "1"),
        (("process", "pid"), 10**400),
        (("process", "rank"), True),
        (("process", "role"), ["worker"]),
        (("process", "host"), 1),
        (("written",), {}),
        (("status", "calls"), []),
        (("status", "calls"), {"eager": None}),
        (("status", "capable"), "yes"),
        (("status", "targets"), {"rotary_embedding": 1}),
        (("status", "signatures"), {"neox": 5}),
        (("status", "signatures"), {"neox": {**SIGNATURE, "check": None}}),
        (("status", "fallbacks"), "none"),
    ],
)
def test_a_report_with_a_wrong_type_is_named_with_what_was_expected(
    folder: Path, capsys: pytest.CaptureFixture[str], place: tuple[str, ...], value: Any
) -> None:
    mine = report_folder.current(rope_patch.status())
    mine["status"]["signatures"]["neox"] = SIGNATURE  # type: ignore[assignment]
    report_folder.write(str(folder), mine)
    junk = mangled({"": mine}, "", *place, value=value)[""]
    (folder / "junk.json").write_text(json.dumps(junk))
    found, (wrong,) = report_folder.read(str(folder))
    assert [one["process"]["pid"] for one in found] == [os.getpid()]
    assert (wrong.name, wrong.lives) == ("junk.json", None)
    assert wrong.fault.startswith(".".join(("report", *place)))
    assert "expected" in wrong.fault
    assert len(wrong.fault) < 300
    assert main(["status", str(folder)]) == 1
    assert f"cannot read junk.json: {wrong.fault}" in capsys.readouterr().out


def test_a_report_that_lacks_a_field_is_named_as_another_versions(folder: Path) -> None:
    mine: Any = report_folder.current(rope_patch.status())
    del mine["status"]["note"]
    folder.mkdir()
    (folder / "older.json").write_text(json.dumps(mine))
    _, (wrong,) = report_folder.read(str(folder))
    assert (wrong.name, wrong.fault) == ("older.json", "a report of another version: no report.status.note")
