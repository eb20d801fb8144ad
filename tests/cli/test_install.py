"""``rope-patch install`` and ``uninstall``: both files are written or none, and no other file is touched."""

import json
import os
import subprocess
import sys
import venv
from pathlib import Path

import pytest

from rope_patch.cli import install, main
from tests.conftest import DOUBLES, ROOT, clean_environment

NAMES = ("rope_patch.pth", "rope_patch.start")
# The .pth as the first release with ``install`` wrote it.
FIRST_PTH = (
    "import os; exec(\"if os.environ.get('VLLM_ASCEND_TRITON_ROPE', '').strip().lower() not in "
    "('0', 'off', 'false', 'no'):\\n try:\\n  import rope_patch\\n except ModuleNotFoundError as error:\\n"
    "  if error.name != 'rope_patch':\\n   raise\")  # written by rope-patch install\n"
)
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
    new = files(environment) - before
    assert sorted(path.name for path in new) == sorted(NAMES)
    assert sorted(json.loads(answer.stdout)["files"]) == sorted(map(str, new))
    for flags in ([], ["-E"], ["-I"]):
        assert inside(environment, *flags, "-c", SHOW).stdout == "ours\n"
    for done in ("removed", "nothing"):
        answer = inside(environment, "-m", "rope_patch", "uninstall", "--json")
        assert json.loads(answer.stdout)["done"] == done
    assert files(environment) == before
    assert inside(environment, "-c", SHOW).stdout == "native\n"


def test_the_pth_heeds_the_kill_switch_and_does_no_harm_without_rope_patch(environment: Path) -> None:
    inside(environment, "-m", "rope_patch", "install")
    (pth,) = environment.rglob("rope_patch.pth")
    assert [line[:1] for line in pth.read_text().splitlines()] == ["#", "i"]  # a comment and one line of code
    pth.with_suffix(".start").unlink()  # Python 3.15 would read it instead of the .pth
    assert inside(environment, "-c", LOADED).stdout == "True\n"
    for off in ("0", " Off", "FALSE", "no"):
        assert inside(environment, "-c", LOADED, VLLM_ASCEND_TRITON_ROPE=off).stdout == "False\n"
    pth.with_name("zz_again.pth").write_text(pth.read_text())  # a .pth may run twice
    again = inside(environment, "-c", SHOW)
    assert (again.stdout, again.stderr) == ("ours\n", "")
    pth.with_name("a_test.pth").unlink()  # rope_patch cannot be found any more
    orphan = inside(environment, "-c", "print('runs')")
    assert (orphan.stdout, orphan.stderr) == ("runs\n", "")


# What site does with a .start file according to PEP 829: the file is UTF-8; each line that is neither blank nor a
# comment is a name for pkgutil.resolve_name in its colon form, which is resolved and called without arguments. Here it
# is called twice, since a file may be read twice.
AS_PEP_829 = """
import pkgutil, sys
for line in open(sys.argv[1], encoding="utf-8").read().splitlines():
    line = line.strip()
    if line and not line.startswith("#"):
        module, colon, attribute = line.partition(":")
        assert module and colon and attribute, line
        for again in range(2):
            print(pkgutil.resolve_name(line)())
"""


@pytest.mark.parametrize(("setting", "served"), [("1", "ours"), ("0", "native"), (" Off", "native"), ("no", "native")])
def test_the_start_file_switches_the_patch_on_unless_the_kill_switch_is_set(
    environment: Path, setting: str, served: str
) -> None:
    """Not tested on a Python 3.15: the test does what PEP 829 says that it will do."""
    inside(environment, "-m", "rope_patch", "install")
    (start,) = environment.rglob("rope_patch.start")
    start.with_suffix(".pth").unlink()  # Python 3.15 does not execute it where there is a .start
    assert inside(environment, "-c", LOADED).stdout == ("False\n" if sys.version_info < (3, 15) else "True\n")
    done = inside(environment, "-c", AS_PEP_829 + SHOW, str(start), VLLM_ASCEND_TRITON_ROPE=setting)
    assert (done.stdout.split(), done.stderr) == (["None", "None", served], "")


def test_a_start_file_imports_neither_wrapt_nor_vllm(environment: Path) -> None:
    inside(environment, "-m", "rope_patch", "install")
    (start,) = environment.rglob("rope_patch.start")
    show = "print(*sorted(name for name in sys.modules if name.startswith(('rope_patch', 'wrapt', 'vllm'))))"
    done = inside(environment, "-c", AS_PEP_829 + show, str(start))
    light = {f"rope_patch{name}" for name in ("", ".environment", ".patching", ".patching.import_watch", ".startup")}
    assert set(done.stdout.splitlines()[-1].split()) == light


@pytest.mark.parametrize("verb", ["install", "uninstall"])
@pytest.mark.parametrize("name", NAMES)
def test_if_install_did_not_write_one_of_the_files_neither_is_touched(environment: Path, verb: str, name: str) -> None:
    (anchor,) = environment.rglob("a_test.pth")
    theirs = anchor.with_name(name)
    theirs.write_text("# theirs\n")
    other = anchor.with_name(*set(NAMES) - {name})
    if verb == "uninstall":
        other.write_text(install.FILES[other.name])
    before = files(environment)
    answer = inside(environment, "-m", "rope_patch", verb)
    assert answer.returncode == 1
    assert "left as it is" in answer.stderr
    assert theirs.read_text() == "# theirs\n"
    assert files(environment) == before


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in the place of this interpreter's site-packages."""
    monkeypatch.setattr("sysconfig.get_path", lambda name: str(tmp_path))
    return tmp_path


def content(site: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in site.iterdir()}


@pytest.mark.parametrize("left", [0, 1, 30, 40])
@pytest.mark.parametrize("name", NAMES)
def test_an_interrupted_install_is_completed_or_removed(site: Path, name: str, left: int) -> None:
    """As a killed install leaves it: one file is missing, the other has only its first ``left`` characters."""
    for verb, expected in (("install", install.FILES), ("uninstall", {})):
        for file in site.iterdir():
            file.unlink()
        (site / name).write_text(install.FILES[name][:left])
        assert main([verb]) == 0
        assert content(site) == expected


LATER = {"rope_patch.pth": "import rope_patch.later", "rope_patch.start": "rope_patch.later:start"}


@pytest.fixture(params=["the first release", "this release"])
def older(request: pytest.FixtureRequest, site: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Installs files as an older release would: the first release's, or this one's while FILES are a later one's."""
    if request.param == "the first release":
        (site / "rope_patch.pth").write_text(FIRST_PTH)
    else:
        assert main(["install"]) == 0
        later = {name: text.replace(text.splitlines()[-1], LATER[name]) for name, text in install.FILES.items()}
        monkeypatch.setattr(install, "FILES", later)
    return content(site)


def test_uninstall_removes_the_files_of_an_older_release(older: dict[str, str], site: Path) -> None:
    assert main(["uninstall"]) == 0
    assert not content(site)


def test_install_updates_the_files_of_an_older_release_or_leaves_them(
    older: dict[str, str], site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The older files are a way in too, and stay one if the update fails half way."""
    assert install.complete(site / "rope_patch.pth")
    with monkeypatch.context() as patched:
        full_disk(patched, "rope_patch.start")
        assert main(["install"]) == 1
    assert content(site) == older
    assert main(["install"]) == 0
    assert content(site) == install.FILES != older


@pytest.mark.parametrize("verb", ["install", "uninstall"])
def test_a_file_with_added_lines_is_left_alone(site: Path, verb: str) -> None:
    for first in (FIRST_PTH, install.FILES["rope_patch.pth"]):
        (site / "rope_patch.pth").write_text(first + "import theirs\n")
        assert main([verb]) == 1
        assert content(site) == {"rope_patch.pth": first + "import theirs\n"}


def full_disk(patched: pytest.MonkeyPatch, name: str) -> None:
    """Make writing the file ``name`` fail half way."""
    write = Path.write_text

    def full(path: Path, text: str) -> None:
        write(path, text[:9] if path.name == name and text == install.FILES[name] else text)
        if path.name == name and text == install.FILES[name]:
            raise OSError(28, "No space left on device")

    patched.setattr(Path, "write_text", full)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("there", [False, True], ids=["nothing there", "the other there"])
def test_an_install_that_fails_leaves_what_was_there(
    site: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str, there: bool
) -> None:
    other = {other: text for other, text in install.FILES.items() if there and other != name}
    for file, text in other.items():
        (site / file).write_text(text)
    full_disk(monkeypatch, name)
    assert main(["install"]) == 1
    assert "No space left on device" in capsys.readouterr().err
    assert content(site) == other


def test_an_uninstall_that_fails_half_way_is_reported_and_can_be_completed(
    site: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["install"]) == 0
    unlink = Path.unlink

    def stuck(path: Path) -> None:
        if path.suffix == ".pth":
            raise OSError(30, "Read-only file system")
        unlink(path)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "unlink", stuck)
        assert main(["uninstall"]) == 1
    assert "cannot remove" in capsys.readouterr().err
    assert set(content(site)) == {"rope_patch.pth"}
    assert main(["uninstall"]) == 0
    assert not content(site)


def test_neither_verb_follows_a_link(site: Path) -> None:
    precious = site / "precious"
    precious.write_text(install.START)
    (site / "rope_patch.start").symlink_to(precious)
    assert [main([verb]) for verb in ("install", "uninstall")] == [1, 1]
    assert os.path.islink(site / "rope_patch.start")
    assert set(content(site)) == {"precious", "rope_patch.start"}
