"""``rope-patch install`` and ``uninstall``: the file is whole or absent, and no other file is touched."""

import json
import os
import resource
import stat
import subprocess
import venv
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from rope_patch.cli import install, main
from tests.conftest import DOUBLES, ROOT, clean_environment

SHOW = "import rope_target; import vllm.model_executor.layers.rotary_embedding.base as b; print(b.Scaled()(1, 2, 3))"
LOADED = "import sys; print('rope_patch' in sys.modules)"


@pytest.fixture
def environment(tmp_path: Path) -> Path:
    """A new virtual environment whose path has this rope_patch and the doubles."""
    venv.create(tmp_path / "venv", with_pip=False)
    python = tmp_path / "venv" / "bin" / "python"
    site = subprocess.check_output([python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], text=True)
    import wrapt

    paths = [ROOT, DOUBLES, Path(wrapt.__file__).parent.parent]
    (Path(site.strip()) / "a_test.pth").write_text("".join(f"{path}\n" for path in paths))
    return tmp_path / "venv"


def inside(environment: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in clean_environment().items() if name != "PYTHONPATH"}
    command = [environment / "bin" / "python", *arguments]
    return subprocess.run(command, env=clean | variables, cwd=environment, capture_output=True, text=True)


def files(environment: Path) -> set[Path]:
    return {path for path in environment.rglob("*") if "__pycache__" not in path.parts}


def test_install_reaches_every_process_and_uninstall_leaves_nothing(environment: Path) -> None:
    before = files(environment)
    for done in ("written", "unchanged"):
        answer = inside(environment, "-m", "rope_patch", "install", "--json")
        assert json.loads(answer.stdout)["done"] == done, answer.stderr
    (new,) = files(environment) - before
    assert new.name == "rope_patch.pth"
    assert json.loads(answer.stdout)["file"] == str(new)
    for flags in ([], ["-E"], ["-I"]):
        assert inside(environment, *flags, "-c", SHOW).stdout == "ours\n"
    for done in ("removed", "nothing"):
        answer = inside(environment, "-m", "rope_patch", "uninstall", "--json")
        assert json.loads(answer.stdout)["done"] == done
    assert files(environment) == before
    assert inside(environment, "-c", SHOW).stdout == "native\n"


def test_the_pth_heeds_the_kill_switch_and_does_no_harm_without_rope_patch(
    environment: Path,
) -> None:
    inside(environment, "-m", "rope_patch", "install")
    (pth,) = environment.rglob("rope_patch.pth")
    assert [line[:1] for line in pth.read_text().splitlines()] == ["#", "i"]  # a comment and one line of code
    assert inside(environment, "-c", LOADED).stdout == "True\n"
    off = inside(environment, "-c", SHOW, VLLM_ASCEND_TRITON_ROPE=" Off")
    assert off.stdout == "native\n"
    pth.with_name("zz_again.pth").write_text(pth.read_text())  # a .pth may run twice
    again = inside(environment, "-c", SHOW)
    assert (again.stdout, again.stderr) == ("ours\n", "")
    pth.with_name("a_test.pth").unlink()  # rope_patch cannot be found any more
    orphan = inside(environment, "-c", "print('runs')")
    assert (orphan.stdout, orphan.stderr) == ("runs\n", "")


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in the place of this interpreter's site-packages."""
    monkeypatch.setattr("sysconfig.get_path", lambda name: str(tmp_path))
    return tmp_path


def content(site: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in site.iterdir()}


OURS = {"rope_patch.pth": install.PTH}
OLDER = {"rope_patch.pth": f"{install.MARK}\nimport rope_patch.earlier\n"}


@pytest.mark.parametrize("verb", ["install", "uninstall"])
@pytest.mark.parametrize("theirs", ["# theirs\n", "", f"{install.PTH}import theirs\n"])
def test_a_file_that_install_did_not_write_is_left_alone(
    site: Path, capsys: pytest.CaptureFixture[str], verb: str, theirs: str
) -> None:
    (site / "rope_patch.pth").write_text(theirs)
    assert main([verb]) == 1
    assert "left as it is" in capsys.readouterr().err
    assert content(site) == {"rope_patch.pth": theirs}


@pytest.mark.parametrize("verb", ["install", "uninstall"])
def test_neither_verb_follows_a_link(site: Path, verb: str) -> None:
    precious = site / "precious"
    precious.write_text(install.PTH)
    (site / "rope_patch.pth").symlink_to(precious)
    assert main([verb]) == 1
    assert os.path.islink(site / "rope_patch.pth")
    assert set(content(site)) == {"precious", "rope_patch.pth"}


@pytest.mark.parametrize(("verb", "left"), [("install", OURS), ("uninstall", {})])
def test_the_file_of_another_release_is_replaced_or_removed(site: Path, verb: str, left: dict[str, str]) -> None:
    (site / "rope_patch.pth").write_text(OLDER["rope_patch.pth"])
    assert install.content(site / "rope_patch.pth") == OLDER["rope_patch.pth"]
    assert main([verb]) == 0
    assert content(site) == left


def test_every_user_can_read_the_file_that_the_mask_lets_read(site: Path) -> None:
    mask = os.umask(0o022)
    try:
        assert main(["install"]) == 0
    finally:
        os.umask(mask)
    assert stat.S_IMODE((site / "rope_patch.pth").stat().st_mode) == 0o644


def test_an_interpreter_that_starts_meanwhile_sees_the_file_whole_or_as_it_was(
    site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the file has is seen each time that the system is called."""
    (site / "rope_patch.pth").write_text(OLDER["rope_patch.pth"])
    seen = set()

    def watched(name: str) -> None:
        call = getattr(os, name)

        def looks(*arguments: object, **named: object) -> object:
            try:
                return call(*arguments, **named)
            finally:
                seen.add((site / "rope_patch.pth").read_text())
                seen.update(path.suffix for path in site.iterdir() if path.name != "rope_patch.pth")

        monkeypatch.setattr(os, name, looks)

    for name in ("open", "fsync", "replace"):
        watched(name)
    monkeypatch.setattr(Path, "write_text", None)  # it writes in place
    assert main(["install"]) == 0
    assert seen - {OLDER["rope_patch.pth"], install.PTH} <= {".new"}, "site executes every file named *.pth"
    assert content(site) == OURS


@pytest.mark.parametrize("there", [{}, OLDER], ids=["nothing there", "another release's"])
@pytest.mark.parametrize("call", ["open", "write", "fsync", "replace"])
def test_an_install_that_fails_leaves_what_was_there(
    site: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], there: dict[str, str], call: str
) -> None:
    for name, text in there.items():
        (site / name).write_text(text)

    def full(*arguments: object, **named: object) -> None:
        raise OSError(28, "No space left on device")

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    with monkeypatch.context() as patched:
        if call == "write":  # a limit on the size of files stands for a disk that is full half way
            resource.setrlimit(resource.RLIMIT_FSIZE, (100, before[1]))
        else:
            patched.setattr(os, call, full)
        try:
            assert main(["install"]) == 1
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert "cannot write" in capsys.readouterr().err
    assert content(site) == there
    assert main(["install"]) == 0
    assert content(site) == OURS


@pytest.mark.parametrize(("verb", "left"), [("install", OURS), ("uninstall", {})])
def test_what_a_killed_install_left_is_no_obstacle_and_uninstall_removes_it(
    site: Path, verb: str, left: dict[str, str]
) -> None:
    (site / ".rope_patch.pth.0123456789abcdef.new").write_text(install.PTH[:40])
    (site / ".rope_patch.pth.theirs").write_text("")
    assert main([verb]) == 0
    found = content(site)
    found.pop(".rope_patch.pth.0123456789abcdef.new", None) if verb == "install" else None
    assert found == {".rope_patch.pth.theirs": "", **left}


def test_many_installs_at_a_time_all_succeed(site: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(main, [["install"]] * 24)) == {0}
    assert content(site) == OURS


def test_an_uninstall_that_fails_is_reported_and_can_be_repeated(
    site: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["install"]) == 0

    def stuck(path: Path, missing_ok: bool = False) -> None:
        raise OSError(30, "Read-only file system")

    with monkeypatch.context() as patched:
        patched.setattr(Path, "unlink", stuck)
        assert main(["uninstall"]) == 1
    assert "cannot remove" in capsys.readouterr().err
    assert content(site) == OURS
    assert main(["uninstall"]) == 0
    assert not content(site)
