"""``VLLM_ASCEND_TRITON_ROPE_REPORT=DIR``: the files there, one of each process, written and read.

A file is written under another name and then renamed, so it is complete or absent. Only its owner can read it, and of
the environment it holds only our own variables. A file is believed only if it belongs to the user who reads it, and
nothing in it is executed.
"""

import contextlib
import json
import os
import socket
import stat
import threading
import time
from collections.abc import Iterator
from typing import NamedTuple

from rope_patch.reporting import fitting, process
from rope_patch.reporting.form import ReadReport, Report, Status, expect

SILENT = 15.0  # seconds without a touch after which a process of another host counts as gone; clocks may differ


class NotOurs(Exception):
    """The folder or file belongs to another user, so it is neither written nor believed."""


class Unreadable(NamedTuple):
    """A file that cannot be read as a report."""

    name: str
    fault: str
    lives: bool | None  # whether the process lives that the name stands for; None if it is not the name of a report


def current(status: Status) -> Report:
    """This process's report with that status."""
    return Report(process=process.this(), written=process.now(), left_out=0, status=status)


File = tuple[int, ...]  # what identifies a file and its content: device, inode, size


def write(folder: str, mine: Report) -> File:
    """Write ``mine`` into ``folder``, which is created if it does not exist. Returns what identifies the file.

    Raises:
        NotOurs: another user owns the folder.
        OSError: it cannot be written.
    """
    with contextlib.suppress(FileExistsError):
        os.mkdir(folder, 0o700)
    name = _name(mine["process"])
    beside = f".{name}.{threading.get_ident()}"
    with _opened(folder) as directory:
        with contextlib.suppress(FileNotFoundError):  # left where writing failed, and removing it too
            os.unlink(beside, dir_fd=directory)
        file = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600, dir_fd=directory)
        try:
            with os.fdopen(file, "wb") as stream:
                stream.write(fitting.text_of(mine))
                stream.flush()
                made = _identity(os.fstat(file))
            os.rename(beside, name, src_dir_fd=directory, dst_dir_fd=directory)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(beside, dir_fd=directory)
            raise
    return made


def is_there(folder: str, who: process.Process, made: File, touch: bool) -> bool:
    """Whether the report of ``who`` is still the file ``made``. Touches it then, if asked to. Raises as ``write``."""
    try:
        with _opened(folder) as directory:
            if _identity(os.stat(_name(who), dir_fd=directory, follow_symlinks=False)) != made:
                return False
            if touch:
                os.utime(_name(who), dir_fd=directory, follow_symlinks=False)
            return True
    except FileNotFoundError:
        return False


def _identity(facts: os.stat_result) -> File:
    return facts.st_dev, facts.st_ino, facts.st_size


def open_to_others(folder: str) -> str | None:
    """What to tell an operator if other users can remove or rename the files in ``folder``; None if they cannot."""
    with _opened(folder) as directory:
        mode = os.fstat(directory).st_mode
    if not mode & (stat.S_IWGRP | stat.S_IWOTH) or mode & stat.S_ISVTX:
        return None
    return f"other users can write to {folder} (mode {stat.S_IMODE(mode):o}): chmod go-w it, or {_own(folder)}"


def _own(folder: str) -> str:
    return f"name a folder in it that does not exist yet, {os.path.join(folder, 'rope_patch')} say"


def _name(who: process.Process) -> str:
    return f"{_host(who['host'])}-{who['pid']}-{who['started']}.json"


def _host(name: str) -> str:
    return name.replace(os.sep, "_")


def read(folder: str) -> tuple[list[ReadReport], list[Unreadable]]:
    """Every report in ``folder``, and the files that cannot be read as reports.

    Raises:
        NotOurs: another user owns the folder.
        OSError: it cannot be read.
    """
    found, wrong = [], []
    with _opened(folder) as directory:
        for name in _listed(directory):
            try:
                found.append(_read_one(directory, name))
            except FileNotFoundError:
                pass  # deleted since it was listed
            except (OSError, ValueError, RecursionError, NotOurs) as error:
                wrong.append(Unreadable(name, str(error), _named_lives(directory, name)))
    return found, wrong


def _named_lives(directory: int, name: str) -> bool | None:
    try:
        return _heartbeat(directory, name) is not None
    except (OSError, ValueError):
        return None


def _heartbeat(directory: int, name: str) -> float | None:
    """When the file was touched last, if the process that its name stands for lives.

    Raises:
        ValueError: it is not the name of a report.
        OSError: there is no such file.
    """
    host, pid, started = name.removesuffix(".json").rsplit("-", 2)
    heartbeat = os.stat(name, dir_fd=directory, follow_symlinks=False).st_mtime
    return heartbeat if _lives(host, int(pid), started, heartbeat) else None


def living(folder: str, known: dict[str, ReadReport]) -> list[ReadReport]:
    """The reports in ``folder`` of living processes. Raises as ``read`` does.

    ``known`` holds the reports of the last call, which are read again only if they were touched, and is updated. Files
    of processes that ended pile up over restarts; they are recognised by their names and not opened.
    """
    found: dict[str, ReadReport] = {}
    with _opened(folder) as directory:
        for name in _listed(directory):
            with contextlib.suppress(OSError, ValueError, RecursionError, NotOurs):  # rope-patch status names them
                heartbeat = _heartbeat(directory, name)
                if heartbeat is not None:
                    same = name in known and known[name]["heartbeat"] == heartbeat
                    found[name] = known[name] if same else _read_one(directory, name)
    known.clear()
    known.update(found)
    return list(found.values())


def _listed(directory: int) -> list[str]:
    return sorted(name for name in os.listdir(directory) if name.endswith(".json") and not name.startswith("."))


def is_live(one: ReadReport) -> bool:
    """Whether the process that wrote ``one`` is alive. On another host that is judged by its last touch of the file."""
    who = one["process"]
    return _lives(_host(who["host"]), who["pid"], who["started"], one["heartbeat"])


def _lives(host: str, pid: int, started: str, heartbeat: float) -> bool:
    if host == _host(socket.gethostname()):
        return process.started(pid) == started
    return time.time() - heartbeat < SILENT


@contextlib.contextmanager
def _opened(folder: str) -> Iterator[int]:
    """The folder as a descriptor, so that the folder whose owner was checked is the one that is used."""
    directory = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        owner = os.fstat(directory).st_uid
        if owner != os.geteuid():
            words = f"{folder} belongs to user {owner}, and this process runs as {os.geteuid()}"
            raise NotOurs(f"{words}: {_own(folder)}")
        yield directory
    finally:
        os.close(directory)


def _read_one(directory: int, name: str) -> ReadReport:
    file = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=directory)
    with os.fdopen(file, "rb") as stream:
        facts = os.fstat(file)
        if not stat.S_ISREG(facts.st_mode) or facts.st_uid != os.geteuid():
            raise NotOurs("not a regular file of this user")
        loaded = json.loads(stream.read(fitting.LARGEST))  # a longer file is cut, which makes it invalid JSON
    expect(loaded, Report, "report")
    found: ReadReport = loaded | {"heartbeat": facts.st_mtime}
    return found
