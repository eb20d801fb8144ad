"""Keeps this process's report up to date in the report folder, and compares it with those of the other ranks.

A separate thread does both, so that a folder that hangs, is full or is gone does not delay a forward pass.
"""

import atexit
import os
import threading
import time
from collections.abc import Callable

from rope_patch.reporting import log, ranks, report_folder
from rope_patch.reporting.form import ReadReport, Status

SECONDS = 2.0  # between two checks whether something changed
PULSE = 5.0  # seconds after which a process touches its file, to show other processes that it is alive; see ``SILENT``

wanted = True  # False in the command ``rope-patch``: ``doctor`` imports vLLM, but is none of its processes


def keep(folder: str, status: Callable[[], Status]) -> Callable[[], None]:
    """From now on, keep a report of this process and of its forks in ``folder``. ``status()`` gives its content.

    Returns a function that ends that.
    """
    folder, ended = os.path.abspath(folder), threading.Event()
    if not wanted:
        return ended.set

    def begin() -> None:
        threading.Thread(target=_keep, args=(folder, status, ended), name="rope_patch-report", daemon=True).start()

    def forked() -> None:  # a fork does not inherit the thread, which may have held the event's lock
        nonlocal ended
        if not ended.is_set():
            ended = threading.Event()
            begin()

    def last() -> None:
        if not ended.is_set():
            Keeper(folder, status).look()

    os.register_at_fork(after_in_child=forked)
    atexit.register(last)
    begin()
    return lambda: ended.set()


def _keep(folder: str, status: Callable[[], Status], ended: threading.Event) -> None:
    keeper = Keeper(folder, status)
    while not ended.is_set():
        keeper.look()
        ended.wait(SECONDS)


class Keeper:
    """What was written last, and what is known of the other ranks."""

    def __init__(self, folder: str, status: Callable[[], Status]) -> None:
        self.folder, self.status = folder, status
        self.written: object = None
        self.file: report_folder.File = ()
        self.touched = 0.0
        self.known: dict[str, ReadReport] = {}
        self.watch = ranks.Watch()

    def look(self) -> None:
        """Write the report if something changed or it is not there, and compare. A failure is logged once."""
        try:
            mine = report_folder.current(self.status())
            facts, now = (mine["process"], mine["status"]), time.monotonic()
            touch = now - self.touched >= PULSE
            if facts != self.written or not report_folder.is_there(self.folder, mine["process"], self.file, touch):
                self.file = report_folder.write(self.folder, mine)
                self.written, touch = facts, True
                if fault := report_folder.open_to_others(self.folder):
                    log.warn_once(f"rope_patch: {fault}")
            if touch:
                self.touched = now
            for message in self.watch.look(mine, report_folder.living(self.folder, self.known), now):
                log.logger.warning(f"rope_patch: {message}")
        except Exception as error:
            vanished = isinstance(error, FileNotFoundError) and self.written is not None
            self.written = None  # so that the report is written again if the folder comes back
            if not vanished:  # else the next look makes the folder again, or says that it cannot
                log.warn_once(f"rope_patch: no report in {self.folder}: {type(error).__name__}: {error}")
