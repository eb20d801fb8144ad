"""``VLLM_ASCEND_TRITON_ROPE_REPORT=DIR``: keeps this process's status in a file there, and reads those of others.

A separate thread writes, so that a folder that hangs, is full or is gone does not delay a forward pass. A file is
written under another name and then renamed, so it is complete or absent. Only its owner can read it, and of the
environment it holds only our own variables. A file is believed only if it belongs to the user who reads it, and nothing
in it is executed.
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
from rope_patch.reporting.status import ReadReport, Report, Status, expect

SECONDS = 2.0  # between two checks whether something changed
PULSE = 5.0  # seconds after which a process touches its file, to show other hosts that it is alive
SILENT = 3 * PULSE  # seconds without a touch after which a process of another host counts as gone; clocks may differ
LARGEST = 2**20  # bytes of a report that are read


class NotOurs(Exception):
    """The folder or file belongs to another user, so it is neither written nor believed."""


def keep(folder: str, status: Callable[[], Status]) -> Callable[[], None]:
    """From now on, keep a report of this process and of its forks in ``folder``. ``status()`` gives its content.

    Returns a function that ends that.
    """
    folder, ended = os.path.abspath(folder), threading.Event()

    def begin() -> None:
        threading.Thread(target=_keep, args=(folder, status, ended), name="rope_patch-report", daemon=True).start()

    def forked() -> None:
        """A fork inherits the counts but not the thread: set the counts to zero and start a thread."""
        nonlocal ended
        if not ended.is_set():
            ended = threading.Event()  # the old one's lock may be held by a thread that does not exist here
            ledger.reset()
            begin()

    def last() -> None:
        if not ended.is_set():
            _Keeper(folder, status).look()

    os.register_at_fork(after_in_child=forked)
    atexit.register(last)
    begin()
    return lambda: ended.set()


def _keep(folder: str, status: Callable[[], Status], ended: threading.Event) -> None:
    keeper = _Keeper(folder, status)
    while not ended.is_set():
        keeper.look()
        ended.wait(SECONDS)


class _Keeper:
    """Keeps this process's report up to date, and compares it with those of the other ranks."""

    def __init__(self, folder: str, status: Callable[[], Status]) -> None:
        self.folder, self.status = folder, status
        self.written: object = None
        self.touched = 0.0
        self.known: dict[str, ReadReport] = {}

    def look(self) -> None:
        """Write the report if something changed, and compare. A failure is logged once."""
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
            self.written = None  # so that the report is written again if the folder comes back
            log.warn_once(f"rope_patch: no report in {self.folder}: {type(error).__name__}: {error}")


def current(status: Status) -> Report:
    """This process's report with that status."""
    return Report(process=process.this(), written=process.now(), status=status)


def write(folder: str, mine: Report) -> None:
    """Write ``mine`` into ``folder``, which is created if it does not exist.

    Raises:
        NotOurs: another user owns the folder.
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


def read(folder: str) -> tuple[list[ReadReport], list[str]]:
    """Every report in ``folder``, and what is wrong with the files that cannot be read as reports.

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
                wrong.append(f"{name}: {error}")
    return found, wrong


def living(folder: str, known: dict[str, ReadReport]) -> list[ReadReport]:
    """The reports in ``folder`` of living processes. Raises as ``read`` does.

    ``known`` holds the reports of the last call, which are read again only if they were touched, and is updated. Files
    of processes that ended pile up over restarts; they are recognised by their names and not opened.
    """
    found: dict[str, ReadReport] = {}
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
            raise NotOurs(f"{folder} belongs to user {owner}, and this process runs as {os.geteuid()}")
        yield directory
    finally:
        os.close(directory)


def _read_one(directory: int, name: str) -> ReadReport:
    file = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=directory)
    with os.fdopen(file, "rb") as stream:
        facts = os.fstat(file)
        if not stat.S_ISREG(facts.st_mode) or facts.st_uid != os.geteuid():
            raise NotOurs("not a regular file of this user")
        loaded = json.loads(stream.read(LARGEST))  # a longer file is cut, which makes it invalid JSON
    expect(loaded, Report, "report")
    found: ReadReport = loaded | {"heartbeat": facts.st_mtime}
    return found
