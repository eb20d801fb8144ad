"""``rope-patch``: its exit status, text and JSON, and the verbs ``status`` and ``run``."""

import importlib
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

import rope_patch
from rope_patch.cli import VERBS, main
from rope_patch.cli.answer import Answer
from rope_patch.cli.run import BOOTSTRAP, with_bootstrap
from rope_patch.reporting import keeper, process, report_folder
from tests.conftest import DOUBLES, ROOT, Run, clean_environment
from tests.reporting.test_ranks import DISABLED, OFF, RETIRED, UNDECIDED, of

Said = pytest.CaptureFixture[str]


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_explains_itself_and_has_json(verb: str, capsys: Said) -> None:
    with pytest.raises(SystemExit) as ended:
        main([verb, "--help"])
    assert ended.value.code == 0
    said = capsys.readouterr().out
    assert importlib.import_module(f"rope_patch.cli.{verb}").__doc__.strip() in said  # type: ignore[union-attr]
    assert ("--json" in said) == (verb != "run"), "run becomes the command, and answers nothing of its own"


def test_everything_works_without_docstrings(python: Run, tmp_path: Path) -> None:
    """What can be asked without vLLM; ``-OO`` removes docstrings, and assertions too."""
    asked = [[verb, "--help"] for verb in VERBS] + [["--help"], ["--version"], ["status", str(tmp_path)]]
    code = "from rope_patch.cli import main\ndef end(*arguments):\n try:\n  return main(arguments)\n"
    code += " except SystemExit as ended:\n  return ended.code\n"
    code += f"print([end(*arguments) for arguments in {asked}], flush=True)\nend('run', 'echo', 'ran')"
    printed = python(code, flags=("-OO",)).splitlines()
    assert f"rope-patch {rope_patch.__version__}" in printed
    assert printed[-2:] == [str([0] * (len(VERBS) + 2) + [1]), "ran"]


@pytest.mark.parametrize("verb", VERBS)
def test_no_verb_keeps_a_report_of_its_own(verb: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some import vLLM, but none of them is a process of the vLLM whose reports are in the folder."""
    seen = []

    def act(options: object) -> Answer:
        seen.append(keeper.wanted)
        return Answer(True, {}, "")

    monkeypatch.setattr(keeper, "wanted", True)
    monkeypatch.setattr(f"rope_patch.cli.{verb}.act", act)
    assert main([verb]) == 0
    assert seen == [False]


@pytest.mark.parametrize("arguments", [[], ["nonsense"], ["status", "--nonsense"], ["run", "--json", "--", "true"]])
def test_wrong_usage_is_exit_status_2(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2


def test_the_command_and_the_module_are_the_same(python: Run) -> None:
    command = [sys.executable, "-m", "rope_patch", "--version"]
    assert subprocess.check_output(command, cwd=ROOT, text=True).strip() == f"rope-patch {rope_patch.__version__}"
    code = "from importlib.metadata import distribution as d\n"
    code += "[e] = [e for e in d('rope-patch').entry_points if e.group == 'console_scripts']; print(e.name, e.value)"
    assert python(code) == "rope-patch rope_patch.cli:main"


def test_asking_for_help_imports_nothing_heavy(python: Run) -> None:
    code = "import sys\nfrom rope_patch.cli import main\ntry:\n    main(['verify', '--help'])\nexcept SystemExit:\n    "
    code += "print({'torch', 'vllm', 'triton', 'wrapt'} & set(sys.modules))"
    assert python(code).splitlines()[-1] == "set()"


def command(*arguments: str, output: object = subprocess.PIPE) -> tuple[int, str]:
    """Exit status and standard error of the real command."""
    environment = clean_environment() | {"PYTHONPATH": str(ROOT)}
    full = [sys.executable, "-m", "rope_patch", *arguments]
    done = subprocess.run(full, env=environment, stdout=output, stderr=subprocess.PIPE, text=True)  # type: ignore[call-overload]
    return done.returncode, done.stderr


def test_an_answer_that_cannot_be_written_gives_one_sentence(tmp_path: Path) -> None:
    mine = of(0)
    mine["process"]["host"] = "elsewhere"  # its file was just written, so it counts as alive
    folder = reports(tmp_path, mine)
    with open("/dev/full", "w") as full:
        said = "rope-patch: the answer cannot be written: No space left on device\n"
        assert command("status", folder, output=full) == (2, said)
        assert command("status", "--help", output=full)[1].count("\n") <= 1
    read, write = os.pipe()
    os.close(read)
    with open(write, "w") as closed:
        assert command("status", folder, output=closed) == (0, "")


# A shell may start the tests as a background job with interrupts ignored, and Python would keep ignoring them.
HEARS = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"


def test_an_interrupt_while_torch_is_imported_is_exit_status_130(tmp_path: Path, python: Run) -> None:
    (tmp_path / "torch.py").write_text("import os, signal; os.kill(os.getpid(), signal.SIGINT)")
    code = f"{HEARS}import sys; sys.path.insert(0, {str(tmp_path)!r})\nfrom rope_patch.cli import main\n"
    assert python(code + "sys.exit(main(['verify']))", rc=130) == ""


def test_an_interrupt_while_the_verbs_are_imported_is_exit_status_130(python: Run) -> None:
    code = f"""
{HEARS}
import os, signal, sys
from rope_patch.cli import main
class Interrupts:
    def find_spec(self, name, *rest):
        if name == "rope_patch.cli.verify":
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Interrupts())
sys.exit(main(["status", "/nowhere"]))
"""
    assert python(code, rc=130) == ""


def test_a_report_with_strange_characters_is_printed_in_any_encoding(tmp_path: Path, python: Run) -> None:
    mine = of(0, fallbacks={"\x1b[2J \u2026 \ud800": 3})
    mine["process"]["host"] = "elsewhere"
    code = f"from rope_patch.cli import main; print(main(['status', {reports(tmp_path, mine)!r}]))"
    printed = python(code, PYTHONIOENCODING="ascii")
    assert "3 times: ?[2J \\u2026 ?" in printed
    assert printed.splitlines()[-1] == "0"


@pytest.mark.parametrize(
    "arguments", [["run", "--", ""], ["status", ""], ["status", "x" * 5000]], ids=["command", "empty", "long"]
)
def test_an_impossible_name_gives_one_sentence(arguments: list[str], capsys: Said) -> None:
    assert main(arguments) == 2
    said = capsys.readouterr().err
    assert said.startswith("rope-patch: ")
    assert said.count("\n") == 1
    assert len(said) < 300


# status


def reports(folder: Path, *found: object) -> str:
    folder.mkdir(exist_ok=True)
    for number, report in enumerate(found):
        (folder / f"{number}.json").write_text(json.dumps(report))
    return str(folder)


def test_status_shows_role_rank_verdict_and_counts(tmp_path: Path, capsys: Said) -> None:
    mine = of(0, calls={"eager": 41, "traced": 5}, fallbacks={"gradients wanted": 3})
    mine["process"].update(pid=os.getpid(), role="worker", world_size=2)
    assert main(["status", reports(tmp_path, mine)]) == 0
    shown = capsys.readouterr().out
    for words in ("worker", "0 of 2", str(os.getpid()), "live", "patched (rotary_embedding)", " 41 ", "3 times: grad"):
        assert words in shown
    assert main(["status", "--json", str(tmp_path)]) == 0
    (process,) = json.loads(capsys.readouterr().out)["processes"]
    assert process["life"] == "live"
    assert process["status"]["calls"]["eager"] == 41


EXECUTED_AGAIN = "gone: its module was executed again (importlib.reload, say); rope_patch.enable() applies it again"
GONE = {"targets": {"rotary_embedding": EXECUTED_AGAIN}}


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (OFF, "ranks disagree"),
        (RETIRED, "first-use check failed"),
        (GONE, "executed again"),
    ],
)
def test_status_names_faults_of_live_processes(
    tmp_path: Path, capsys: Said, monkeypatch: pytest.MonkeyPatch, change: object, named: str
) -> None:
    found = of(0), of(1, **change)  # type: ignore[arg-type]
    for report in found:
        report["process"]["pid"] = os.getpid()
    monkeypatch.setattr(keeper, "SECONDS", 0)
    assert main(["status", "--json", reports(tmp_path, *found)]) == 1
    problems = json.loads(capsys.readouterr().out)["problems"]
    assert any(named in problem for problem in problems), problems


HALF = "off, half taken back, call disable() again to finish: OSError: no"


@pytest.mark.parametrize("state", [EXECUTED_AGAIN, HALF])
def test_status_names_a_target_that_is_gone_or_half_taken_back(tmp_path: Path, capsys: Said, state: str) -> None:
    found = of(0, targets={"rotary_embedding": state})
    found["process"]["pid"] = os.getpid()
    assert main(["status", "--json", reports(tmp_path, found)]) == 1
    (problem,) = json.loads(capsys.readouterr().out)["problems"]
    assert state in problem


def test_status_ignores_the_faults_of_processes_that_are_gone(tmp_path: Path, capsys: Said) -> None:
    gone, mine = of(1, **RETIRED), of(0)
    gone["process"].update(pid=2**22 + 1)
    mine["process"]["pid"] = os.getpid()
    assert main(["status", reports(tmp_path, gone, mine)]) == 0
    shown = capsys.readouterr().out
    assert 0 < shown.index(" live ") < shown.index(" gone "), "living processes come first"
    (tmp_path / "1.json").unlink()
    assert main(["status", str(tmp_path)]) == 1
    assert "no live process" in capsys.readouterr().out


@pytest.mark.parametrize("switched", [False, True], ids=["agree now", "switched again"])
def test_status_ignores_ranks_that_are_being_switched(
    tmp_path: Path, capsys: Said, monkeypatch: pytest.MonkeyPatch, switched: bool
) -> None:
    """Of two ranks that switch together, one has reported it already."""
    first, second = of(0, **DISABLED), of(1)
    for report in first, second:
        report["process"]["pid"] = os.getpid()
    folder = reports(tmp_path, first, second)
    waited = []

    def meanwhile(seconds: float) -> None:
        waited.append(seconds)
        first["process"]["switched"] += switched
        reports(tmp_path, first, second if switched else of(1, **DISABLED))

    monkeypatch.setattr("time.sleep", meanwhile)
    assert main(["status", folder]) == 0
    assert waited == [2 * keeper.SECONDS]


def named_for(pid: int, host: str = "", started: str | None = None) -> str:
    """The name of a process's file."""
    started = (process.started(pid) or "1") if started is None else started
    return f"{host or socket.gethostname()}-{pid}-{started}.json"


OLD = {"process": {"pid": 1}, "status": {}}  # another release's form


@pytest.mark.parametrize("content", ["", "{", json.dumps(OLD), "x" * 2**21], ids=["empty", "half", "older", "huge"])
@pytest.mark.parametrize(
    ("name", "lives"),
    [
        (named_for(2**22 + 1), False),
        (named_for(os.getpid(), started="1"), False),
        (named_for(7, host="else-where"), False),
        (named_for(os.getppid()), True),
        (named_for(7, host="just-touched"), True),
    ],
    ids=["gone", "another process of that number", "silent on another host", "alive", "touched on another host"],
)
def test_files_of_the_dead_are_mentioned_and_only_those_of_the_living_are_a_fault(
    tmp_path: Path, capsys: Said, name: str, lives: bool, content: str
) -> None:
    mine = of(0)
    mine["process"]["pid"] = os.getpid()
    folder = reports(tmp_path, mine)
    (tmp_path / name).write_text(content)
    if not name.startswith("just"):
        os.utime(tmp_path / name, (1, 1))
    assert main(["status", folder]) == lives
    said = capsys.readouterr().out
    assert f"! cannot read {name}" in said if lives else f"  cannot read {name}, of a process that is gone" in said
    assert main(["status", "--json", folder]) == lives
    (file,) = json.loads(capsys.readouterr().out)["unreadable"]
    assert (file["name"], file["lives"]) == (name, lives)


def test_status_explains_what_its_rows_cannot_say(tmp_path: Path, capsys: Said) -> None:
    worker, server, gone = of(0, calls={"eager": 4}), of(0, **UNDECIDED), of(0)
    for report, role in (worker, "worker"), (server, "API server"), (gone, "model inspector"):
        report["process"].update(pid=os.getpid(), role=role)
    gone["process"]["pid"] = 2**22 + 1
    worker["left_out"] = 812
    assert main(["status", reports(tmp_path, worker, server, gone)]) == 0
    shown = capsys.readouterr().out
    for words in ("not replayed", "Workers rotate", "looks at the model's class", "has ended", "met 812 more"):
        assert words in shown
    assert main(["status", reports(tmp_path, *[of(0)] * 3)]) == 1, "no live process"
    (tmp_path / "0.json").write_text(json.dumps(worker | {"left_out": 0}))
    for number in 1, 2:
        (tmp_path / f"{number}.json").unlink()
    main(["status", str(tmp_path)])
    assert len(capsys.readouterr().out.split("no live process reports")[1].splitlines()) == 4, "table and one line"


def test_status_of_a_folder_that_cannot_be_read_is_exit_status_2(
    tmp_path: Path, capsys: Said, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("VLLM_ASCEND_TRITON_ROPE_REPORT", raising=False)
    assert main(["status"]) == 2
    assert "VLLM_ASCEND_TRITON_ROPE_REPORT" in capsys.readouterr().err
    assert main(["status", str(tmp_path / "nowhere")]) == 2
    monkeypatch.setattr(os, "geteuid", lambda: 12345678)
    assert main(["status", "--json", str(tmp_path)]) == 2
    assert "belongs to user" in json.loads(capsys.readouterr().err.splitlines()[-1])["error"]


def test_status_prints_no_control_characters_of_a_report(tmp_path: Path, capsys: Said) -> None:
    mine = of(0)
    mine["process"].update(pid=os.getpid(), role="\x1b[2Jworker")
    main(["status", reports(tmp_path, mine)])
    assert "\x1b" not in capsys.readouterr().out


def test_status_reads_what_a_process_wrote(with_doubles: Run, tmp_path: Path) -> None:
    folder = tmp_path / "reports"
    code = (
        "import rope_target, rope_patch\nimport vllm.model_executor.layers.rotary_embedding.base\n"
        "from rope_patch.reporting import report_folder\nfrom rope_patch.cli import main\n"
        f"report_folder.write({str(folder)!r}, report_folder.current(rope_patch.status()))\n"
        f"print(main(['status', {str(folder)!r}]))"
    )
    assert with_doubles(code).splitlines()[-1] == "0"
    assert len(report_folder.read(str(folder))[0]) == 1


# run


def carried(*command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    environment = clean_environment() | {"PYTHONPATH": f"{ROOT}{os.pathsep}{DOUBLES}"} | environment
    run = [sys.executable, "-m", "rope_patch", "run", *command]
    return subprocess.run(run, env=environment, capture_output=True, text=True)


NESTED = "import subprocess, sys; sys.exit(subprocess.call([sys.executable, '-c', sys.argv[1]]))"
SHOW = "import rope_target; import vllm.model_executor.layers.rotary_embedding.base as b; print(b.Scaled()(1, 2, 3))"


@pytest.mark.parametrize("dashes", [[], ["--"]], ids=["plain", "dashes"])
def test_run_patches_the_command_and_the_children_of_its_children(dashes: list[str]) -> None:
    done = carried(*dashes, sys.executable, "-c", NESTED, SHOW)
    assert (done.stdout, done.returncode) == ("ours\n", 0), done.stderr


def test_run_passes_arguments_and_exit_status_on_unchanged() -> None:
    done = carried("--", sys.executable, "-c", "import sys; print(sys.argv[1:]); sys.exit(7)", "--json", "-h", "a b")
    assert (done.stdout, done.returncode) == ("['--json', '-h', 'a b']\n", 7)


def test_run_within_run_adds_the_bootstrap_folder_once() -> None:
    code = "import os; print(os.environ['PYTHONPATH'])"
    done = carried(sys.executable, "-m", "rope_patch", "run", sys.executable, "-c", code)
    assert done.stdout.strip().split(os.pathsep) == [BOOTSTRAP, str(ROOT), str(DOUBLES)]
    assert with_bootstrap(None) == BOOTSTRAP
    assert with_bootstrap(f"/a{os.pathsep}{BOOTSTRAP}/") == f"{BOOTSTRAP}{os.pathsep}/a"


@pytest.mark.parametrize("path", [os.pathsep, f"/a{os.pathsep}", f"{os.pathsep}/a", f"/a{os.pathsep}{os.pathsep}/b"])
def test_run_keeps_empty_entries_of_the_path(tmp_path: Path, path: str) -> None:
    """For Python an empty entry means the current folder, but an entirely empty path means no entry."""
    (tmp_path / "here.py").write_text("print('found')")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "script.py").write_text("import here")
    environment = clean_environment() | {"PYTHONPATH": with_bootstrap(path)}
    command = [sys.executable, "folder/script.py"]
    assert subprocess.check_output(command, env=environment, cwd=tmp_path, text=True) == "found\n"
    assert with_bootstrap(with_bootstrap(path)) == with_bootstrap(path)
    assert with_bootstrap("") == BOOTSTRAP


@pytest.mark.parametrize(("command", "status"), [([], 2), (["no-such-command-here"], 127), ([str(ROOT)], 126)])
def test_run_reports_a_command_that_cannot_run(command: list[str], status: int) -> None:
    done = carried("--", *command)
    assert done.returncode == status
    assert done.stderr.startswith("rope-patch: ")
