"""A process's report comes back whatever happened to its file or folder, and no file of another is touched."""

import json
import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

import rope_patch
from rope_patch.reporting import keeper, log, report_folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "reports"


@pytest.fixture
def warned(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """The warnings of this test, and none before."""
    monkeypatch.setattr(log, "warned", set())
    return log.warned


@pytest.fixture
def kept(folder: Path, warned: set[str]) -> keeper.Keeper:
    """After its first look."""
    made = keeper.Keeper(str(folder), rope_patch.status)
    made.look()
    return made


def the_file(folder: Path) -> Path:
    (file,) = folder.iterdir()  # and no other: nothing temporary
    return file


def another_file(file: Path) -> None:
    shutil.copy(file, file.with_suffix(".copy"))
    file.with_suffix(".copy").rename(file)


def moved(folder: Path) -> None:
    folder.rename(folder.with_name("elsewhere"))


HARMS: dict[str, Callable[[Path], object]] = {
    "deleted": lambda folder: the_file(folder).unlink(),
    "emptied": lambda folder: the_file(folder).write_text(""),
    "another file": lambda folder: another_file(the_file(folder)),
    "folder deleted": shutil.rmtree,
    "folder moved": moved,
    "folder emptied and made again": lambda folder: (shutil.rmtree(folder), folder.mkdir()),
}


@pytest.mark.parametrize("harm", HARMS)
def test_the_report_is_there_again_at_the_next_look_and_nobody_is_bothered(
    kept: keeper.Keeper, folder: Path, warned: set[str], harm: str
) -> None:
    HARMS[harm](folder)
    kept.look()
    assert json.loads(the_file(folder).read_text())["process"]["pid"] == os.getpid()
    file = the_file(folder).stat()
    kept.look()
    assert the_file(folder).stat().st_ino == file.st_ino, "it is written once"
    assert not warned


def test_a_folder_in_whose_place_a_file_was_comes_back(kept: keeper.Keeper, folder: Path, warned: set[str]) -> None:
    moved(folder)
    folder.write_text("")
    kept.look()
    kept.look()
    (said,) = warned
    assert "Not a directory" in said
    folder.unlink()
    kept.look()
    assert the_file(folder).is_file()


@pytest.mark.parametrize("calls", [("rename",), ("rename", "unlink"), ("open",), ("mkdir", "open")])
def test_a_folder_that_was_read_only_for_a_while_is_written_again(
    kept: keeper.Keeper, folder: Path, warned: set[str], monkeypatch: pytest.MonkeyPatch, calls: tuple[str, ...]
) -> None:
    """Whichever call it is that fails first, and whatever that leaves. The warning names the first one's error."""
    the_file(folder).unlink()

    def readonly(*arguments: object, **named: object) -> None:
        raise OSError(30, "Read-only file system")

    def stuck(path: str, *, dir_fd: int) -> None:
        os.stat(path, dir_fd=dir_fd)
        raise OSError(16, "Device or resource busy")

    with monkeypatch.context() as patched:
        for call in calls:
            patched.setattr(os, call, stuck if call == "unlink" else readonly)
        kept.look()
        (said,) = warned
        kept.look()
    assert "Read-only file system" in said
    kept.look()
    assert the_file(folder).stat().st_size


def test_a_folder_that_is_removed_while_it_is_written_is_made_at_the_next_look(
    kept: keeper.Keeper, folder: Path, warned: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    the_file(folder).unlink()
    rename = os.rename

    def removed(*arguments: object, **named: object) -> None:
        shutil.rmtree(folder)
        rename(*arguments, **named)  # type: ignore[arg-type]

    with monkeypatch.context() as patched:
        patched.setattr(os, "rename", removed)
        kept.look()
    assert not folder.exists()
    kept.look()
    assert the_file(folder).stat().st_size
    assert not warned


def test_a_process_that_lives_touches_its_file(
    kept: keeper.Keeper, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.utime(the_file(folder), (1, 1))
    kept.look()
    assert the_file(folder).stat().st_mtime == 1, "not at every look"
    monkeypatch.setattr(keeper, "PULSE", 0)
    kept.look()
    assert the_file(folder).stat().st_mtime > 1


@pytest.mark.parametrize("late", [False, True], ids=["before the look", "between looking and touching"])
def test_a_link_in_its_place_is_never_touched_through(
    kept: keeper.Keeper, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, late: bool
) -> None:
    file, precious = the_file(folder), tmp_path / "precious"
    precious.write_text("untouched")
    os.utime(precious, (1, 1))
    real = os.stat

    def link() -> None:
        file.unlink()
        file.symlink_to(precious)

    def looked(path: object, **named: object) -> os.stat_result:
        facts = real(path, **named)  # type: ignore[call-overload]
        if path == file.name and not file.is_symlink():
            link()
        return facts

    monkeypatch.setattr(keeper, "PULSE", 0)
    if late:
        monkeypatch.setattr(os, "stat", looked)
    else:
        link()
    kept.look()
    monkeypatch.setattr(os, "stat", real)
    assert (precious.read_text(), precious.stat().st_mtime) == ("untouched", 1)
    kept.look()
    assert stat.S_ISREG(file.lstat().st_mode)
    assert (precious.read_text(), precious.stat().st_mtime) == ("untouched", 1)


@pytest.mark.parametrize(("mode", "open_"), [(0o777, 1), (0o775, 1), (0o757, 1), (0o1777, 0), (0o755, 0), (0o700, 0)])
def test_a_folder_that_others_can_write_to_is_warned_of_once(
    folder: Path, warned: set[str], mode: int, open_: int
) -> None:
    """With a sticky bit they can add files, which are not believed, but not remove or rename ours."""
    folder.mkdir()
    folder.chmod(mode)
    process = keeper.Keeper(str(folder), rope_patch.status)
    for _ in range(3):
        process.written = None
        process.look()
    assert len(warned) == open_
    for said in warned:
        assert f"(mode {mode:o})" in said
        assert "chmod go-w" in said
        assert f"{folder}/rope_patch" in said
    assert report_folder.read(str(folder))[0]
