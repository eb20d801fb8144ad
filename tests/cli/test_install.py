"""``rope-patch install`` and ``uninstall``: two files in site-packages, whole or not at all, and nobody else's."""

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
# What the first release that could install wrote.
FIRST_PTH = (
    "import os; exec(\"if os.environ.get('VLLM_ASCEND_TRITON_ROPE', '').strip().lower() not in "
    "('0', 'off', 'false', 'no'):\\n try:\\n  import rope_patch\\n except ModuleNotFoundError as error:\\n"
    "  if error.name != 'rope_patch':\\n   raise\")  # written by rope-patch install\n"
)
SHOW = "import rope_target; import vllm.model_executor.layers.rotary_embedding.base as b; print(b.Scaled()(1, 2, 3))"
LOADED = "import sys; print('rope_patch' in sys.modules)"


@pytest.fixture
def environment(tmp_path: Path) -> Path:
    """A fresh virtual environment, whose interpreter finds this rope_patch and the doubles on its own path."""
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


def test_the_line_of_the_pth_is_gated_and_harms_nobody(environment: Path) -> None:
    inside(environment, "-m", "rope_patch", "install")
    (pth,) = environment.rglob("rope_patch.pth")
    assert [line[:1] for line in pth.read_text().splitlines()] == ["#", "i"]  # a comment, and the line
    pth.with_suffix(".start").unlink()  # as before Python 3.15, which this test may run in
    assert inside(environment, "-c", LOADED).stdout == "True\n"
    for off in ("0", " Off", "FALSE", "no"):
        assert inside(environment, "-c", LOADED, VLLM_ASCEND_TRITON_ROPE=off).stdout == "False\n"
    pth.with_name("zz_again.pth").write_text(pth.read_text())  # a .pth may run twice
    again = inside(environment, "-c", SHOW)
    assert (again.stdout, again.stderr) == ("ours\n", "")
    pth.with_name("a_test.pth").unlink()  # rope_patch is not installed any more
    orphan = inside(environment, "-c", "print('runs')")
    assert (orphan.stdout, orphan.stderr) == ("runs\n", "")


# What site does with a .start file, by PEP 829: it is UTF-8; but for blank lines and comments, each line is a name of
# pkgutil.resolve_name's colon form, which is resolved and called without arguments. Twice here, as files may be.
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
def test_the_entry_of_the_start_file_switches_on_unless_told_not_to(
    environment: Path, setting: str, served: str
) -> None:
    """No Python 3.15 has read the file: this does with it what PEP 829 says that one will."""
    inside(environment, "-m", "rope_patch", "install")
    (start,) = environment.rglob("rope_patch.start")
    start.with_suffix(".pth").unlink()  # its line is not executed where the .start is read
    assert inside(environment, "-c", LOADED).stdout == ("False\n" if sys.version_info < (3, 15) else "True\n")
    done = inside(environment, "-c", AS_PEP_829 + SHOW, str(start), VLLM_ASCEND_TRITON_ROPE=setting)
    assert (done.stdout.split(), done.stderr) == (["None", "None", served], "")


def test_a_start_file_imports_no_more_than_rope_patch_itself(environment: Path) -> None:
    inside(environment, "-m", "rope_patch", "install")
    (start,) = environment.rglob("rope_patch.start")
    show = "print(*sorted(name for name in sys.modules if name.startswith(('rope_patch', 'wrapt', 'vllm'))))"
    done = inside(environment, "-c", AS_PEP_829 + show, str(start))
    light = {f"rope_patch{name}" for name in ("", ".environment", ".patching", ".patching.import_watch", ".startup")}
    assert set(done.stdout.splitlines()[-1].split()) == light


@pytest.mark.parametrize("verb", ["install", "uninstall"])
@pytest.mark.parametrize("name", NAMES)
def test_a_file_that_install_did_not_write_is_left_alone_and_so_is_the_other(
    environment: Path, verb: str, name: str
) -> None:
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
    """A folder that stands for this interpreter's site-packages."""
    monkeypatch.setattr("sysconfig.get_path", lambda name: str(tmp_path))
    return tmp_path


def content(site: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in site.iterdir()}


@pytest.mark.parametrize("left", [0, 1, 30, 40])
@pytest.mark.parametrize("name", NAMES)
def test_a_half_done_install_is_completed_or_taken_away(site: Path, name: str, left: int) -> None:
    """As one that was killed leaves it: the other file absent, and of this one so many characters."""
    for verb, expected in (("install", install.FILES), ("uninstall", {})):
        for file in site.iterdir():
            file.unlink()
        (site / name).write_text(install.FILES[name][:left])
        assert main([verb]) == 0
        assert content(site) == expected


LATER = {"rope_patch.pth": "import rope_patch.later", "rope_patch.start": "rope_patch.later:start"}


@pytest.fixture(params=["the first release", "this release"])
def older(request: pytest.FixtureRequest, site: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """What an older release installed: the first one's files, or this one's while a later one is at work."""
    if request.param == "the first release":
        (site / "rope_patch.pth").write_text(FIRST_PTH)
    else:
        assert main(["install"]) == 0
        later = {name: text.replace(text.splitlines()[-1], LATER[name]) for name, text in install.FILES.items()}
        monkeypatch.setattr(install, "FILES", later)
    return content(site)


def test_what_an_older_release_installed_is_taken_away(older: dict[str, str], site: Path) -> None:
    assert main(["uninstall"]) == 0
    assert not content(site)


def test_what_an_older_release_installed_is_brought_up_to_date_or_stays(
    older: dict[str, str], site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is a way in all the same, and an update that fails half-way leaves it one."""
    assert install.complete(site / "rope_patch.pth")
    with monkeypatch.context() as patched:
        full_disk(patched, "rope_patch.start")
        assert main(["install"]) == 1
    assert content(site) == older
    assert main(["install"]) == 0
    assert content(site) == install.FILES != older


@pytest.mark.parametrize("verb", ["install", "uninstall"])
def test_what_somebody_added_to_is_theirs(site: Path, verb: str) -> None:
    for first in (FIRST_PTH, install.FILES["rope_patch.pth"]):
        (site / "rope_patch.pth").write_text(first + "import theirs\n")
        assert main([verb]) == 1
        assert content(site) == {"rope_patch.pth": first + "import theirs\n"}


def full_disk(patched: pytest.MonkeyPatch, name: str) -> None:
    """From the file of that name on, nothing can be written."""
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


def test_an_uninstall_that_fails_half_way_says_so_and_is_completed(
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
