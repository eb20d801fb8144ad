"""``VLLM_ASCEND_TRITON_ROPE_REPORT=DIR``: this process's status in a small file there, and reading what others wrote.

A thread of its own writes, so that a folder that hangs, is full or is gone holds up nobody's forward pass. A file is
complete or absent (written beside, then renamed), readable by its owner only, and holds no environment but our own
variables. Files are trusted only if they belong to whoever reads them; nothing in them is executed.
"""

import atexit
import contextlib
import json
import os
import socket
import stat
import threading
from collections.abc import Iterator
from typing import Any, TypedDict

from rope_patch import process, ranks, report

SECONDS = 2.0  # between two looks at whether something changed
LARGEST = 2**20  # bytes of a report worth reading


class Report(TypedDict):
    """One file: who wrote it, when, and its ``rope_patch.status()``."""

    process: process.Process
    written: str  # UTC
    status: report.Status


class Refused(Exception):
    """The folder is not one to write into or to believe."""


def keep(folder: str) -> None:
    """Keep a report of this process, and of those it forks, in ``folder`` from now on."""
    folder = os.path.abspath(folder)
    begin = threading.Thread(target=_keep, args=(folder,), name="rope_patch-report", daemon=True).start
    os.register_at_fork(after_in_child=lambda: _forked(folder))
    atexit.register(_write_quietly, folder, {})
    begin()


def _forked(folder: str) -> None:
    """Threads are not forked, counts are; and what the parent served is not the child's."""
    for counts in (report.calls, report.fallbacks, report.declined):
        counts.clear()
    for count in report.served.values():
        count[0] = 0
    threading.Thread(target=_keep, args=(folder,), name="rope_patch-report", daemon=True).start()


def _keep(folder: str) -> None:
    last: dict[str, Any] = {}
    pause = threading.Event()
    while True:
        _write_quietly(folder, last)
        pause.wait(SECONDS)


def _write_quietly(folder: str, last: dict[str, Any]) -> None:
    """Write if something changed since ``last``, and compare with the other ranks. Whatever fails is said once."""
    try:
        mine = current()
        facts = {"process": mine["process"], "status": mine["status"]}
        if facts != last:
            write(folder, mine)
            last.update(facts)
        for message in ranks.disagreements(mine, read(folder)[0]):
            report.warn_once(f"rope_patch: {message}")
    except Exception as error:
        last.clear()  # so that a folder that comes back has the report again
        report.warn_once(f"rope_patch: no report in {folder}: {type(error).__name__}: {error}")


def current() -> Report:
    """This process's report."""
    from rope_patch import hooks

    return Report(process=process.this(), written=process.now(), status=hooks.status())


def write(folder: str, mine: Report) -> None:
    """Write ``mine`` into ``folder``, which is made if it is not there.

    Raises:
        Refused: somebody else owns the folder.
        OSError: it cannot be written.
    """
    with contextlib.suppress(FileExistsError):
        os.mkdir(folder, 0o700)
    me = mine["process"]
    name = f"{me['host']}-{me['pid']}-{me['started']}.json".replace(os.sep, "_")
    beside = f".{name}.{threading.get_ident()}"
    with _opened(folder) as directory:
        file = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600, dir_fd=directory)
        try:
            with os.fdopen(file, "w") as stream:
                json.dump(mine, stream, indent=1)
            os.rename(beside, name, src_dir_fd=directory, dst_dir_fd=directory)
        except BaseException:
            os.unlink(beside, dir_fd=directory)
            raise


def read(folder: str) -> tuple[list[Report], list[str]]:
    """Every report in ``folder``, and what is wrong with files that are none.

    Raises:
        Refused: somebody else owns the folder.
        OSError: it cannot be read.
    """
    found, wrong = [], []
    with _opened(folder) as directory:
        for name in sorted(os.listdir(directory)):
            if name.endswith(".json") and not name.startswith("."):
                try:
                    found.append(_read_one(directory, name))
                except FileNotFoundError:
                    pass  # gone since it was listed
                except (OSError, ValueError, RecursionError, Refused) as error:
                    wrong.append(f"{name}: {error}")
    return found, wrong


def is_live(one: Report) -> bool:
    """Whether the process that wrote ``one`` runs on this host."""
    who = one["process"]
    return who["host"] == socket.gethostname() and process.started(who["pid"]) == who["started"]


@contextlib.contextmanager
def _opened(folder: str) -> Iterator[int]:
    """The folder as a descriptor, so that what was looked at is what is used."""
    directory = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        owner = os.fstat(directory).st_uid
        if owner != os.geteuid():
            raise Refused(f"{folder} belongs to user {owner}, and this process runs as {os.geteuid()}")
        yield directory
    finally:
        os.close(directory)


def _read_one(directory: int, name: str) -> Report:
    file = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=directory)
    with os.fdopen(file, "rb") as stream:
        facts = os.fstat(file)
        if not stat.S_ISREG(facts.st_mode) or facts.st_uid != os.geteuid():
            raise Refused("not a file of this user's")
        loaded = json.loads(stream.read(LARGEST))  # a longer one is cut, and then no JSON
    return _checked(loaded)


def _checked(loaded: Any) -> Report:
    """As much of a report as is relied on has the right types."""
    for part, fields in (("process", process.Process), ("status", report.Status)):
        if not isinstance(loaded, dict) or not isinstance(loaded.get(part), dict):
            raise ValueError("not a report of rope_patch")
        missing = set(fields.__annotations__) - set(loaded[part])
        if missing:
            raise ValueError(f"a report of another version: {', '.join(sorted(missing))} missing")
    checked: Report = loaded
    return checked
