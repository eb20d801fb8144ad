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
import time
from collections.abc import Callable, Iterator

from rope_patch.reporting import ledger, log, process, ranks
from rope_patch.reporting.status import Found, Report, Status, expect

SECONDS = 2.0  # between two looks at whether something changed
PULSE = 5.0  # seconds after which a process touches its file, so that other hosts see that it lives
SILENT = 3 * PULSE  # seconds without that after which it counts as gone on another host, whose clock may differ by few
LARGEST = 2**20  # bytes of a report worth reading


class NotOurs(Exception):
    """The folder is not one to write into or to believe."""


def keep(folder: str, status: Callable[[], Status]) -> None:
    """Keep a report of this process, and of those it forks, in ``folder`` from now on; ``status`` tells its status."""
    folder = os.path.abspath(folder)
    begin = threading.Thread(target=_keep, args=(folder, status), name="rope_patch-report", daemon=True).start
    os.register_at_fork(after_in_child=lambda: _forked(folder, status))
    atexit.register(lambda: _Keeper(folder, status).look())
    begin()


def _forked(folder: str, status: Callable[[], Status]) -> None:
    """Threads are not forked, counts are; and what the parent served is not the child's."""
    ledger.reset()
    threading.Thread(target=_keep, args=(folder, status), name="rope_patch-report", daemon=True).start()


def _keep(folder: str, status: Callable[[], Status]) -> None:
    keeper = _Keeper(folder, status)
    pause = threading.Event()
    while True:
        keeper.look()
        pause.wait(SECONDS)


class _Keeper:
    """Keeps this process's report up to date, and compares it with the other ranks'."""

    def __init__(self, folder: str, status: Callable[[], Status]) -> None:
        self.folder, self.status = folder, status
        self.written: object = None
        self.touched = 0.0
        self.known: dict[str, Found] = {}

    def look(self) -> None:
        """Write if something changed, and compare. Whatever fails is said once."""
        try:
            mine = current(self.status())
            facts = mine["process"], mine["status"]
            if facts != self.written:
                write(self.folder, mine)
                self.written, self.touched = facts, time.monotonic()
            elif time.monotonic() - self.touched >= PULSE:
                os.utime(os.path.join(self.folder, _name(mine["process"])))
                self.touched = time.monotonic()
            for message in ranks.disagreements(mine, living(self.folder, self.known)):
                log.warn_once(f"rope_patch: {message}")
        except Exception as error:
            self.written = None  # so that a folder that comes back has the report again
            log.warn_once(f"rope_patch: no report in {self.folder}: {type(error).__name__}: {error}")


def current(status: Status) -> Report:
    """This process's report, its status given."""
    return Report(process=process.this(), written=process.now(), status=status)


def write(folder: str, mine: Report) -> None:
    """Write ``mine`` into ``folder``, which is made if it is not there.

    Raises:
        NotOurs: somebody else owns the folder.
        OSError: it cannot be written.
    """
    with contextlib.suppress(FileExistsError):
        os.mkdir(folder, 0o700)
    name = _name(mine["process"])
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


def _name(who: process.Process) -> str:
    return f"{_host(who['host'])}-{who['pid']}-{who['started']}.json"


def _host(name: str) -> str:
    return name.replace(os.sep, "_")


def read(folder: str) -> tuple[list[Found], list[str]]:
    """Every report in ``folder``, and what is wrong with files that are none.

    Raises:
        NotOurs: somebody else owns the folder.
        OSError: it cannot be read.
    """
    found, wrong = [], []
    with _opened(folder) as directory:
        for name in _listed(directory):
            try:
                found.append(_read_one(directory, name))
            except FileNotFoundError:
                pass  # gone since it was listed
            except (OSError, ValueError, RecursionError, NotOurs) as error:
                wrong.append(f"{name}: {error}")
    return found, wrong


def living(folder: str, known: dict[str, Found]) -> list[Found]:
    """The reports in ``folder`` of processes that live, ``known`` ones read again only if they were touched.

    The names of files tell who wrote them, so that those that pile up over restarts are not opened. Raises as ``read``.
    """
    found: dict[str, Found] = {}
    with _opened(folder) as directory:
        for name in _listed(directory):
            with contextlib.suppress(OSError, ValueError, RecursionError, NotOurs):  # rope-patch status names them
                host, pid, started = name.removesuffix(".json").rsplit("-", 2)
                heartbeat = os.stat(name, dir_fd=directory, follow_symlinks=False).st_mtime
                if _lives(host, int(pid), started, heartbeat):
                    same = name in known and known[name]["heartbeat"] == heartbeat
                    found[name] = known[name] if same else _read_one(directory, name)
    known.clear()
    known.update(found)
    return list(found.values())


def _listed(directory: int) -> list[str]:
    return sorted(name for name in os.listdir(directory) if name.endswith(".json") and not name.startswith("."))


def is_live(one: Found) -> bool:
    """Whether the process that wrote ``one`` runs: on this host; on another, as far as is heard of it."""
    who = one["process"]
    return _lives(_host(who["host"]), who["pid"], who["started"], one["heartbeat"])


def _lives(host: str, pid: int, started: str, heartbeat: float) -> bool:
    if host == _host(socket.gethostname()):
        return process.started(pid) == started
    return time.time() - heartbeat < SILENT


@contextlib.contextmanager
def _opened(folder: str) -> Iterator[int]:
    """The folder as a descriptor, so that what was looked at is what is used."""
    directory = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        owner = os.fstat(directory).st_uid
        if owner != os.geteuid():
            raise NotOurs(f"{folder} belongs to user {owner}, and this process runs as {os.geteuid()}")
        yield directory
    finally:
        os.close(directory)


def _read_one(directory: int, name: str) -> Found:
    file = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=directory)
    with os.fdopen(file, "rb") as stream:
        facts = os.fstat(file)
        if not stat.S_ISREG(facts.st_mode) or facts.st_uid != os.geteuid():
            raise NotOurs("not a file of this user's")
        loaded = json.loads(stream.read(LARGEST))  # a longer one is cut, and then no JSON
    expect(loaded, Report, "report")
    found: Found = loaded | {"heartbeat": facts.st_mtime}
    return found
